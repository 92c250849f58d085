//! The documents: every file that they name exists, every link leads somewhere, and every verdict is explained.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    fs,
    path::{Path, PathBuf},
};

use abi::Verdict;

/// Names with one of these endings are files of the repository, wherever they are.
const SOURCES: [&str; 5] = [".rs", ".toml", ".md", ".sh", ".svg"];
/// What is not part of the repository.
const MADE: [&str; 2] = ["target", ".git"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// All files of the repository.
fn files(directory: &Path) -> Vec<PathBuf> {
    let kept = |path: &PathBuf| !MADE.iter().any(|made| path.ends_with(made));
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries(directory).into_iter().filter(kept).flat_map(below).collect()
}

/// The documents and their texts, without blocks of code.
fn documents() -> Vec<(PathBuf, String)> {
    let all = entries(&root()).into_iter().chain(entries(&root().join("docs")));
    let pages = all.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap().split("```").step_by(2).collect()))
        .collect()
}

/// What stands between `start` and `end`, each time.
fn between<'a>(text: &'a str, start: &str, end: char) -> Vec<&'a str> {
    text.split(start).skip(1).filter_map(|rest| Some(rest.split_once(end)?.0)).collect()
}

/// The anchor that a heading has.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
}

#[test]
fn the_diff_of_a_new_protocol_applies() {
    let check = ["apply", "--check", "docs/toy-protocol.diff"];
    let output = lab::program("git", &check).unwrap().current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_site_has_every_page() {
    let contents = fs::read_to_string(root().join("site/SUMMARY.md")).unwrap();
    for page in
        entries(&root().join("docs")).iter().filter(|path| path.extension().is_some_and(|end| end == "md"))
    {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        assert!(contents.contains(&format!("({name})")), "site/SUMMARY.md lacks {name}");
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    for (page, text) in documents() {
        for link in between(&text, "](", ')').into_iter().filter(|link| !link.contains("://")) {
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: there is no {file}", page.display());
            let headings = || between(&fs::read_to_string(&target).unwrap(), "\n#", '\n').join("\n");
            let found = wanted.is_empty()
                || headings().lines().any(|line| anchor(line.trim_start_matches('#').trim()) == wanted);
            assert!(found, "{}: {file} has no heading {wanted}", page.display());
        }
    }
}

/// Whether `name`, found in backticks, exists, if it looks like a file or a path of the repository.
fn is_there(name: &str, files: &[PathBuf]) -> bool {
    let first = name.split_once('/').map_or("", |(first, _)| first);
    if !first.is_empty() && !MADE.contains(&first) && root().join(first).is_dir() {
        return root().join(name).exists();
    }
    let is_source =
        SOURCES.iter().any(|ending| name.strip_suffix(ending).is_some_and(|stem| !stem.is_empty()));
    !is_source || MADE.contains(&first) || files.iter().any(|file| file.ends_with(name))
}

#[test]
fn every_file_that_a_document_names_exists() {
    let files = files(&root());
    for (page, text) in documents() {
        let names = text.split('`').skip(1).step_by(2).filter(|name| !name.contains([' ', '{', '*', '\n']));
        for name in names {
            assert!(is_there(name, &files), "{}: there is no `{name}`", page.display());
        }
    }
}

/// What stands in a row of a table, in cells.
fn cells(row: &str) -> Vec<String> {
    row.split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

#[test]
fn the_security_page_names_every_map_and_the_bounds_of_those_that_others_can_fill() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let maps = fs::read_to_string(root().join("ebpf/programs/src/maps.rs")).unwrap();
    for map in between(&maps, "pub static ", ':') {
        assert!(page.contains(&format!("`{map}`")), "{map} is missing");
    }
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    for (map, bound) in [
        ("OPENINGS", abi::OPENINGS),
        ("CIRCUITS", abi::CIRCUITS),
        ("SHARES", abi::SHARES),
        ("STREAMS", abi::STREAMS),
        ("EXTERNALS", abi::EXTERNALS),
        ("SEARCHERS", abi::SEARCHERS),
        ("BUCKETS", abi::BUCKETS),
        ("READS", abi::READS),
        ("EVENTS", abi::EVENT_RING),
        ("MEMBERS", abi::DOMAINS * abi::SLOTS),
    ] {
        let row = rows.iter().find(|row| row[1] == map).unwrap_or_else(|| panic!("{map} has no row"));
        assert_eq!(row[3].replace(' ', ""), bound.to_string(), "{map}");
    }
}

#[test]
fn the_admins_documentation_explains_every_verdict() {
    let page = fs::read_to_string(root().join("docs/admin.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("Verdicts")).unwrap();
    let mut explained = between(section, "\n| `", '`');
    let mut verdicts: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    explained.sort_unstable();
    verdicts.sort_unstable();
    assert_eq!(explained, verdicts);
}
