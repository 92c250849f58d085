//! The house itself: the modules of a crate import each other without a circle. Reads sources alone, without root.
//!
//! A module and the folder of its name are one room for those beside it, and in the folder the same holds again, with
//! `mod.rs` as a room that its own children may use or that may use them, not both. What a room only passes on by `pub use`
//! counts for the module that has it. Tests may import what they like.

#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// The crates whose modules are looked at.
const CRATES: &[&str] = &[
    "ebpf/abi",
    "ebpf/datapath",
    "ebpf/programs",
    "ebpf/wire",
    "installer",
    "kubectl",
    "membership",
    "plugin",
    "view",
];

/// A module's place in its crate: the names from the root to it.
type Place = Vec<String>;
/// Who imports whom, of the rooms on one floor.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn modules_import_each_other_without_a_circle() {
    let circles: Vec<_> = CRATES.iter().flat_map(|name| circles(&Crate::read(name))).collect();
    assert!(circles.is_empty(), "circles of imports:\n  {}", circles.join("\n  "));
}

#[test]
fn a_circle_is_found_whichever_way_it_is_written() {
    let crates = |files: &[(&str, &str)]| {
        let place = |name: &str| name.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let files = files.iter().map(|(name, text)| (place(name), tokens(text)));
        circles(&Crate { name: "x".into(), files: files.collect() })
    };
    let root = ("", "mod a; mod b; pub use b::B;");
    let back = "x: a -> b -> a";
    assert_eq!(crates(&[root, ("a", "use crate::{b::B, c};"), ("b", "fn f() { crate::a::f() }")]), [back]);
    assert_eq!(crates(&[root, ("a", "use crate::B as C;"), ("b", "use super::a;")]), [back]);
    assert_eq!(crates(&[root, ("a", "mod inner { use super::super::b; }"), ("b", "use crate::a;")]), [back]);
    let folder = [("a", "mod c; use c::C;"), ("a/c", "use super::A;"), ("b", "use crate::a::c::C;")];
    assert_eq!(crates(&[&[root], &folder[..]].concat()), ["x/a: c -> mod -> c"]);
    let fine =
        [("a", "use crate::b; // use crate::a"), ("b", "/* crate::a */ const S: &str = \"crate::a::x\";")];
    assert_eq!(crates(&[&[root], &fine[..]].concat()), [""; 0]);
    let tests = [("a", "use crate::b;"), ("b", "#[cfg(test)]\nmod tests { use crate::a; }")];
    assert_eq!(crates(&[&[root], &tests[..]].concat()), [""; 0]);
}

/// Who shows something shows it by `say`; `snoop` and the plugin have buffers and formats of their own.
#[test]
fn only_who_makes_names_printable_prints() {
    const PRINTERS: [&str; 4] = ["installer/say", "installer/snoop", "kubectl/say", "plugin/"];
    let mut found = vec![];
    for name in ["ebpf/abi", "ebpf/datapath", "ebpf/wire", "installer", "kubectl", "membership", "plugin"] {
        for (place, tokens) in Crate::read(name).files {
            let macros = ["print", "println", "eprint", "eprintln", "dbg"];
            let calls = tokens.windows(3).any(|three| match three[2].as_str() {
                "!" => macros.contains(&three[1].as_str()),
                "(" => three[0] != "." && ["stdout", "stderr"].contains(&three[1].as_str()), // not that of a child
                _ => false,
            });
            found.extend(calls.then(|| format!("{name}/{}", place.join("/"))));
        }
    }
    assert_eq!(found, PRINTERS);
}

/// The sources of a crate.
struct Crate {
    name: String,
    files: BTreeMap<Place, Vec<String>>,
}

impl Crate {
    fn read(name: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
        let mut paths = vec![];
        collect(&source, &mut paths);
        let read = |path: &PathBuf| {
            let place = path.strip_prefix(&source).unwrap().with_extension("");
            let mut place: Place = place.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            place.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
            (place, tokens(&fs::read_to_string(path).unwrap()))
        };
        let files: BTreeMap<_, _> = paths.iter().map(read).collect();
        assert!(!files.is_empty(), "{name} has no sources");
        Self { name: name.into(), files }
    }

    /// The module that has what `path` names, seen from the module at `from`; none if that is of another crate.
    fn find(&self, from: &Place, path: &[String]) -> Option<Place> {
        let (mut place, mut rest) = match path.first()?.as_str() {
            "crate" => (vec![], &path[1..]),
            "super" | "self" => (from.clone(), path),
            child if self.files.contains_key(&[from.as_slice(), &[child.into()]].concat()) => {
                (from.clone(), path)
            }
            _ => return None,
        };
        while let [name, after @ ..] = rest {
            match name.as_str() {
                "self" => {}
                "super" => drop(place.pop()),
                _ => {
                    place.push(name.clone());
                    if !self.files.contains_key(&place) {
                        place.pop();
                        break;
                    }
                }
            }
            rest = after;
        }
        let passed_on = rest.first().filter(|_| place != *from).and_then(|name| {
            let uses = paths(&self.files[&place]).into_iter();
            let found = uses.filter(|found| found.public && found.name == *name);
            found.filter_map(|found| self.find(&place, &found.path)).next()
        });
        Some(passed_on.unwrap_or(place))
    }

    /// Who imports whom, on each floor.
    fn imports(&self) -> BTreeMap<Place, Imports> {
        let mut floors = BTreeMap::<_, Imports>::new();
        for (from, text) in &self.files {
            for to in paths(text)
                .iter()
                .filter(|found| !found.public)
                .filter_map(|found| self.find(from, &found.path))
            {
                let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
                let room = |place: &Place| place.get(shared).map_or("mod", String::as_str).to_owned();
                if room(from) != room(&to) {
                    let floor = floors.entry(from[..shared].to_vec()).or_default();
                    floor.entry(room(from)).or_default().insert(room(&to));
                }
            }
        }
        floors
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A circle of each floor that has one, as people write it.
fn circles(sources: &Crate) -> Vec<String> {
    let found = |(floor, imports): (Place, Imports)| {
        let at = [std::slice::from_ref(&sources.name), floor.as_slice()].concat().join("/");
        imports.keys().find_map(|room| circle(&imports, &mut vec![room])).map(|way| format!("{at}: {way}"))
    };
    sources.imports().into_iter().filter_map(found).collect()
}

/// The first circle that begins with `way`, and ends where that begins.
fn circle<'a>(imports: &'a Imports, way: &mut Vec<&'a String>) -> Option<String> {
    for next in imports.get(*way.last()?)? {
        if next == way[0] {
            let rooms = way.iter().chain([&next]).map(|room| room.as_str());
            return Some(rooms.collect::<Vec<_>>().join(" -> "));
        }
        if !way.contains(&next) {
            way.push(next);
            if let Some(found) = circle(imports, way) {
                return Some(found);
            }
            way.pop();
        }
    }
    None
}

/// Something that a module names by its path.
struct Named {
    path: Vec<String>,
    /// What it is called here.
    name: String,
    /// Whether it is only passed on.
    public: bool,
}

/// What the module with these tokens names, as seen from its own place.
fn paths(tokens: &[String]) -> Vec<Named> {
    let mut found = vec![];
    let mut depth: Vec<bool> = vec![]; // of each brace that is open, whether it is that of a module
    let mut at = 0;
    while at < tokens.len() {
        let text = |place: usize| tokens.get(place).map_or("", String::as_str);
        let inside = depth.iter().filter(|is_module| **is_module).count();
        match text(at) {
            "{" => depth.push(at > 1 && text(at - 2) == "mod"),
            "}" => drop(depth.pop()),
            "use" => {
                let public = at > 0 && [")", "pub"].contains(&text(at - 1));
                let mut leaves = vec![];
                at = tree(tokens, at + 1, &[], &mut leaves);
                found.extend(leaves.into_iter().map(|(path, name)| Named {
                    path: lift(path, inside),
                    name,
                    public,
                }));
            }
            first if is_word(first) && text(at + 1) == "::" && (at == 0 || text(at - 1) != "::") => {
                let mut path = vec![first.to_owned()];
                while text(at + 1) == "::" && is_word(text(at + 2)) {
                    path.push(text(at + 2).to_owned());
                    at += 2;
                }
                found.push(Named { path: lift(path, inside), name: String::new(), public: false });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// A path in modules inside a file, as seen from the file.
fn lift(path: Vec<String>, inside: usize) -> Vec<String> {
    let own = path.iter().take(inside).take_while(|part| *part == "super").count();
    if own == 0 { path } else { [&["self".to_owned()], &path[own..]].concat() }
}

/// Reads the tree of a `use` at `at`: its paths, each with the name that it brings. Returns where it ends.
fn tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(Vec<String>, String)>,
) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &path, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            "as" => {
                found.push((path, tokens.get(at + 1).cloned().unwrap_or_default()));
                return at + 2;
            }
            "," | "}" | ";" => break,
            "::" => {}
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    let name = path.last().cloned().unwrap_or_default();
    found.push((path, name));
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The words and signs of a source, without comments, texts and what is for tests alone.
fn tokens(source: &str) -> Vec<String> {
    let mut found = vec![];
    flatten(source.parse().unwrap(), &mut found);
    without_tests(&found)
}

fn flatten(stream: TokenStream, found: &mut Vec<String>) {
    let mut joint = false;
    for tree in stream {
        match tree {
            TokenTree::Group(group) => {
                let [open, close] = match group.delimiter() {
                    Delimiter::Brace => ["{", "}"],
                    Delimiter::Bracket => ["[", "]"],
                    Delimiter::Parenthesis | Delimiter::None => ["(", ")"],
                };
                found.push(open.into());
                flatten(group.stream(), found);
                found.push(close.into());
            }
            TokenTree::Punct(sign) if sign.as_char() == ':' => {
                found.push(if joint { "::" } else { ":" }.into());
                if joint {
                    found.remove(found.len() - 2);
                }
                joint = !joint && sign.spacing() == Spacing::Joint;
            }
            TokenTree::Literal(_) => {}
            other => found.push(other.to_string()),
        }
    }
}

/// Leaves out each item after `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut found = vec![];
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].iter().map(String::as_str).take(MARK.len()).eq(MARK) {
            found.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            depth += i32::from(token == "{") - i32::from(token == "}");
            if depth == 0 && (token == ";" || token == "}") {
                break;
            }
        }
    }
    found
}
