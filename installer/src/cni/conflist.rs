//! Which network configuration the runtime uses, and how to chain the plugin into it. Pure, no I/O.
//!
//! A file is edited as a tree of JSON values: everything else in it keeps its order and values. Edits are idempotent.

use std::path::Path;

use datapath::BPFFS;
use membership::annotation::CAPABILITY;
use serde_json::{Map, Value, json};

/// The plugin's name: its file in the binary directory, its `type` in a configuration.
pub(crate) const PLUGIN: &str = "iocast";
/// The files that a runtime reads in its configuration directory.
const SUFFIXES: [&str; 3] = [".conf", ".conflist", ".json"];
/// Plugins that must be before us: they create the ingress qdisc, and fail if it is there.
const BEFORE_US: [&str; 1] = ["bandwidth"];

/// A file of the configuration directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Why it cannot be read, if so: as for a runtime, this is a faulty configuration, too.
    pub(crate) unreadable: Option<String>,
}

impl File {
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), unreadable: None }
    }
}

/// Why the plugin cannot be chained into a network configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConflistError {
    /// No runtime accepts it.
    #[error("{0}")]
    Invalid(String),
    /// The plugin does not support its version.
    #[error("its cniVersion is `{found}`, but {PLUGIN} supports {}; set one of these", .supported.join(", "))]
    Version { found: String, supported: Vec<String> },
    /// The list that would replace it already exists, and is not ours.
    #[error("it is not a list, and {0} exists next to it, unused; remove one of them")]
    Taken(String),
    /// A list needs a name.
    #[error("it has no `name`, which a list needs; add one")]
    Nameless,
}

/// What we put into a chain.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    pub(crate) entry: Value,
    /// CNI versions that the installed plugin supports: in a chain of another version it would fail every pod.
    pub(crate) versions: Vec<String>,
}

/// What the runtime makes of a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice<'a> {
    /// The configuration to chain into; none while there is no primary plugin.
    pub(crate) target: Option<&'a File>,
    /// Invalid files before it, each with the reason.
    pub(crate) malformed: Vec<(&'a File, String)>,
    /// The configuration of Multus, if the runtime uses that, and it delegates to `target`.
    pub(crate) multus: Option<&'a File>,
}

/// Our entry in `plugins`, for a datapath pinned under `bpffs`.
pub(crate) fn entry(bpffs: &Path) -> Value {
    let mut entry = json!({ "type": PLUGIN, "capabilities": { CAPABILITY: true } });
    if bpffs != Path::new(BPFFS) {
        entry["bpffs"] = bpffs.display().to_string().into();
    }
    entry
}

/// Whether a runtime reads a file of this name.
pub(crate) fn is_configuration(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// The configuration that the runtime uses: the first valid one in order of names. containerd stops at an invalid one, CRI-O
/// skips it.
pub(crate) fn choose(files: &[File]) -> Choice<'_> {
    let mut choice = Choice::default();
    let mut sorted: Vec<_> = files.iter().filter(|file| is_configuration(&file.name)).collect();
    sorted.sort_by_key(|file| file.name.as_bytes());
    for file in sorted.iter().copied() {
        match parse(file) {
            Err(reason) => choice.malformed.push((file, reason.to_string())),
            Ok(network) if primary(&network) == "loopback" => {}
            Ok(network) if is_multus(&network) => {
                choice.multus = Some(file);
                choice.target = delegate(&network, &sorted);
                break;
            }
            Ok(_) => {
                choice.target = Some(file);
                break;
            }
        }
    }
    choice
}

/// Whether a configuration is Multus's own, and not a list in which we could come after it.
fn is_multus(network: &Map<String, Value>) -> bool {
    !network.contains_key("plugins") && primary(network).starts_with("multus")
}

/// The cluster network that Multus delegates to: the file it names, else the next valid one.
fn delegate<'a>(multus: &Map<String, Value>, sorted: &[&'a File]) -> Option<&'a File> {
    let named = multus.get("clusterNetwork").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let valid = |file: &&&File| {
        parse(file)
            .is_ok_and(|network| primary(&network) != "loopback" && !primary(&network).starts_with("multus"))
    };
    let mut candidates = sorted.iter().filter(valid);
    candidates.clone().find(|file| Some(file.name.as_str()) == named).or_else(|| candidates.next()).copied()
}

/// `file`, one of `files`, with us in its chain, under another name if it was not a list; `None` if nothing has to change.
pub(crate) fn chained(file: &File, files: &[File], ours: &Ours) -> Result<Option<File>, ConflistError> {
    let network = parse(file)?;
    let version = network.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !ours.versions.iter().any(|known| known == version) {
        return Err(ConflistError::Version { found: version.into(), supported: ours.versions.clone() });
    }
    let (name, mut list) = match file.name.strip_suffix(".conflist") {
        Some(_) => (file.name.clone(), network),
        None => (list_name(&file.name), wrapped(network)?),
    };
    // A list without us is not one that we made from an earlier version of this file.
    if name != file.name && files.iter().any(|other| other.name == name && !has_us(other)) {
        return Err(ConflistError::Taken(name));
    }
    let plugins = with_entry(plugins(&list), &ours.entry);
    if name == file.name && plugins == self::plugins(&list) {
        return Ok(None);
    }
    list.insert("plugins".into(), plugins.into());
    Ok(Some(File::new(name, text(list))))
}

/// `file` without us; `None` if we are not in it, or alone in it: an empty list is not a valid configuration.
pub(crate) fn unchained(file: &File) -> Option<File> {
    let mut list = parse(file).ok()?;
    let others: Vec<_> = plugins(&list).iter().filter(|plugin| !is_ours(plugin)).cloned().collect();
    if others.is_empty() || others.len() == plugins(&list).len() {
        return None;
    }
    list.insert("plugins".into(), others.into());
    Some(File::new(&file.name, text(list)))
}

fn has_us(file: &File) -> bool {
    parse(file).is_ok_and(|list| plugins(&list).iter().any(is_ours))
}

/// The name of the list that replaces a single configuration.
fn list_name(name: &str) -> String {
    let stem = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    format!("{stem}.conflist")
}

/// A single plugin's configuration as a list with its name and version.
fn wrapped(mut network: Map<String, Value>) -> Result<Map<String, Value>, ConflistError> {
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        list.extend(network.shift_remove(key).map(|value| (key.to_owned(), value)));
    }
    if !list.contains_key("name") {
        return Err(ConflistError::Nameless);
    }
    list.insert("plugins".into(), Value::from(vec![Value::from(network)]));
    Ok(list)
}

/// The chain with our entry in it exactly once: where it was, or last if it was missing or too early.
fn with_entry(plugins: &[Value], entry: &Value) -> Vec<Value> {
    let early =
        |place: usize| place == 0 || plugins[place..].iter().any(|plugin| BEFORE_US.contains(&kind(plugin)));
    let place = plugins.iter().position(is_ours).filter(|place| !early(*place));
    let mut chain: Vec<_> = plugins.iter().filter(|plugin| !is_ours(plugin)).cloned().collect();
    chain.insert(place.unwrap_or(chain.len()), entry.clone());
    chain
}

fn plugins(list: &Map<String, Value>) -> &[Value] {
    list.get("plugins").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn kind(plugin: &Value) -> &str {
    plugin["type"].as_str().unwrap_or_default()
}

fn is_ours(plugin: &Value) -> bool {
    kind(plugin) == PLUGIN
}

/// The type of the plugin that creates the interface.
fn primary(network: &Map<String, Value>) -> &str {
    match plugins(network).first() {
        Some(first) => kind(first),
        None => network.get("type").and_then(Value::as_str).unwrap_or_default(),
    }
}

fn text(list: Map<String, Value>) -> String {
    format!("{:#}\n", Value::from(list))
}

/// The configuration in `file`, if a runtime accepts it (libcni, `ConfFromBytes` and `ConfListFromBytes`).
fn parse(file: &File) -> Result<Map<String, Value>, ConflistError> {
    let invalid = |why: &str| Err(ConflistError::Invalid(why.into()));
    if let Some(why) = &file.unreadable {
        return invalid(why);
    }
    let network: Map<String, Value> =
        serde_json::from_str(&file.text).or_else(|error| invalid(&error.to_string()))?;
    if !file.name.ends_with(".conflist") {
        let named = network.get("type").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        return if named { Ok(network) } else { invalid("it has no `type`") };
    }
    if !network.get("name").is_some_and(Value::is_string) {
        return invalid("it has no `name`");
    }
    let chain = plugins(&network);
    if chain.is_empty() || chain.iter().any(|plugin| kind(plugin).is_empty()) {
        return invalid("`plugins` is not a list of plugins with a `type`");
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, env, fs, path::PathBuf};

    use proptest::{prelude::*, sample::Index};

    use super::*;

    fn ours() -> Ours {
        let versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].map(str::to_owned);
        Ours { entry: entry(Path::new(BPFFS)), versions: versions.into() }
    }

    fn file(name: &str, text: impl Into<String>) -> File {
        File::new(name, text)
    }

    fn list(name: &str, types: &[&str]) -> File {
        let plugins: Vec<_> = types.iter().map(|kind| json!({ "type": kind })).collect();
        file(name, json!({ "cniVersion": "1.0.0", "name": "n", "plugins": plugins }).to_string())
    }

    fn types(file: &File) -> Vec<String> {
        plugins(&parse(file).unwrap()).iter().map(|plugin| kind(plugin).to_owned()).collect()
    }

    fn chain(file: &File) -> Option<File> {
        chained(file, &[], &ours()).unwrap()
    }

    const LIST: &str = include_str!("../../../tests/fuzz/seeds/conflist/two-plugins");

    proptest! {
        #[test]
        fn what_is_changed_anywhere_is_refused_or_comes_back_when_we_leave(
            cut in any::<Index>(), length in 0usize..9, inserted in "[ -~\\n]{0,5}",
        ) {
            let at = cut.index(LIST.len());
            let end = (at + length).min(LIST.len());
            let before = file("10-n.conflist", format!("{}{inserted}{}", &LIST[..at], &LIST[end..]));
            if let Ok(Some(with_us)) = chained(&before, &[], &ours()) {
                prop_assert!(has_us(&with_us));
                prop_assert_eq!(chained(&with_us, &[], &ours()), Ok(None), "once is enough");
                let after = unchained(&with_us);
                prop_assert_eq!(parse(&before), parse(&after.unwrap_or(with_us)));
            }
        }

        #[test]
        fn numbers_come_back_to_the_last_bit(number in proptest::num::f64::NORMAL) {
            let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"bridge","x":{number:e}}}]}}"#);
            let with_us = chain(&file("10-n.conflist", text)).unwrap();
            let after = parse(&unchained(&with_us).unwrap()).unwrap();
            prop_assert_eq!(plugins(&after)[0]["x"].as_f64(), Some(number));
        }
    }

    /// The names and texts in a directory.
    fn listing(directory: &Path) -> BTreeMap<String, String> {
        let entries =
            fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let read = |path: PathBuf| {
            (path.file_name().unwrap().display().to_string(), fs::read_to_string(path).unwrap())
        };
        entries.map(|entry| read(entry.unwrap().path())).collect()
    }

    fn files(listing: &BTreeMap<String, String>) -> Vec<File> {
        listing.iter().map(|(name, text)| file(name, text.as_str())).collect()
    }

    fn assert_golden(directory: &Path, found: &BTreeMap<String, String>) {
        if env::var_os("UPDATE_GOLDEN").is_some() {
            let _ = fs::remove_dir_all(directory);
            fs::create_dir_all(directory).unwrap();
            found.iter().for_each(|(name, text)| fs::write(directory.join(name), text).unwrap());
        }
        assert_eq!(&listing(directory), found, "{}: see UPDATE_GOLDEN", directory.display());
    }

    #[test]
    fn every_primary_plugins_configuration_is_chained_once_and_unchained() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/conflist");
        let cases: Vec<_> = fs::read_dir(&golden).unwrap().map(|case| case.unwrap().path()).collect();
        assert!(cases.len() >= 8, "{cases:?}");
        for case in cases {
            let mut present = listing(&case.join("before"));
            let before = files(&present);
            let target = choose(&before).target.unwrap().clone();
            let after = chain(&target).unwrap();
            present.remove(&target.name);
            present.insert(after.name.clone(), after.text.clone());
            assert_golden(&case.join("after"), &present);
            assert_eq!(chain(&after), None, "{}: once is enough", case.display());
            present.insert(after.name.clone(), unchained(&after).unwrap().text);
            assert_golden(&case.join("uninstalled"), &present);
        }
    }

    #[test]
    fn the_first_name_in_byte_order_is_what_the_runtime_uses() {
        let files = [
            list("10-b.conflist", &["b"]),
            list("10-B.conflist", &["B"]),
            file("10-a.conf", "{\"type\":\"a\"}"),
        ];
        assert_eq!(choose(&files).target, Some(&files[1]));
        let files = [list("10-a.conflist", &["a"]), file("10-a.conf", "{\"type\":\"a\"}")];
        assert_eq!(choose(&files).target, Some(&files[1]), "a single one shadows the list of its stem");
    }

    #[test]
    fn temporary_files_and_backups_are_not_configurations() {
        let files = [file(".10-a.conflist.1.tmp", "{"), file("05-x.conflist.bak", "{"), file("README", "")];
        assert_eq!(choose(&files), Choice::default());
    }

    #[test]
    fn a_malformed_file_before_the_one_in_use_is_named_with_its_reason() {
        let wrong = [
            ("00-a.conflist", "{", "EOF"),
            ("01-b.conflist", r#"{"plugins":[{"type":"x"}]}"#, "no `name`"),
            ("02-c.conflist", r#"{"name":"n","plugins":[]}"#, "`plugins`"),
            ("03-d.conflist", r#"{"name":"n","plugins":[{"type":""}]}"#, "`plugins`"),
            ("04-e.conf", r#"{"name":"n","plugins":[{"type":"x"}]}"#, "no `type`"),
            ("05-f.conf", "[]", "expected a map"),
        ];
        let mut files: Vec<_> = wrong.iter().map(|(name, text, _)| file(name, *text)).collect();
        files.push(list("10-good.conflist", &["bridge"]));
        files.push(file("20-after.conflist", "{"));
        let choice = choose(&files);
        assert_eq!(choice.target, Some(&files[wrong.len()]));
        assert_eq!(choice.malformed.len(), wrong.len());
        for ((found, reason), (name, _, expected)) in choice.malformed.iter().zip(wrong) {
            assert!(found.name == name && reason.contains(expected), "{name}: {reason}");
        }
    }

    #[test]
    fn loopback_is_no_primary_plugin() {
        let files = [file("99-loopback.conf", r#"{"cniVersion":"1.0.0","name":"lo","type":"loopback"}"#)];
        assert_eq!(choose(&files).target, None);
    }

    #[test]
    fn the_network_that_multus_names_is_taken_else_the_next_one() {
        let multus =
            |keys: &str| file("00-multus.conf", format!(r#"{{"name":"m","type":"multus-shim"{keys}}}"#));
        let (a, b) = (list("10-a.conflist", &["a"]), list("20-b.conflist", &["b"]));
        let files =
            [multus(r#","clusterNetwork":"/host/etc/cni/net.d/20-b.conflist""#), a.clone(), b.clone()];
        let choice = choose(&files);
        assert_eq!((choice.target, choice.multus), (Some(&files[2]), Some(&files[0])));
        let files = [multus(r#","delegates":[{"type":"a"}]"#), a, b];
        assert_eq!(choose(&files).target, Some(&files[1]));
        assert_eq!(choose(&files[..1]).target, None);
    }

    #[test]
    fn a_list_that_begins_with_multus_is_chained_itself() {
        let files = [list("00-multus.conflist", &["multus-shim"]), list("10-a.conflist", &["a"])];
        let choice = choose(&files);
        assert_eq!((choice.target, choice.multus), (Some(&files[0]), None));
    }

    #[test]
    fn an_entry_of_ours_that_is_outdated_is_replaced_in_its_place() {
        let old = file(
            "10-a.conflist",
            json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [
                { "type": "a" }, { "type": "iocast", "bpffs": "/old" }, { "type": "istio-cni" } ] })
            .to_string(),
        );
        let new = chain(&old).unwrap();
        assert_eq!(types(&new), ["a", "iocast", "istio-cni"]);
        assert!(!new.text.contains("/old"), "{}", new.text);
    }

    #[test]
    fn two_entries_of_ours_become_one() {
        let twice = list("10-a.conflist", &["a", "iocast", "b", "iocast"]);
        assert_eq!(types(&chain(&twice).unwrap()), ["a", "iocast", "b"]);
    }

    #[test]
    fn we_move_behind_what_must_be_before_us_and_stay_before_what_need_not() {
        let of =
            |types_before: &[&str]| chain(&list("10-a.conflist", types_before)).map(|after| types(&after));
        assert_eq!(of(&["a", "iocast", "bandwidth"]).unwrap(), ["a", "bandwidth", "iocast"]);
        assert_eq!(of(&["iocast", "a"]).unwrap(), ["a", "iocast"]);
        let with_entry = chain(&list("10-a.conflist", &["a"])).unwrap();
        let appended = with_entry.text.replace("\n  ]", ",{\"type\":\"portmap\"}]");
        assert_eq!(chain(&file("10-a.conflist", appended)), None, "no contention for places");
    }

    #[test]
    fn foreign_keys_their_order_and_versions_stay() {
        let before = r#"{
  "zeta": 1,
  "cniVersion": "1.1.0",
  "cniVersions": ["0.4.0", "1.1.0"],
  "name": "n",
  "disableCheck": true,
  "plugins": [{ "type": "z", "mtu": 1450, "big": 18446744073709551615, "a": null }],
  "alpha": {"y": 1, "x": []}
}"#;
        let after = chain(&file("10-a.conflist", before)).unwrap();
        let (mut before, after): (Value, Value) =
            (serde_json::from_str(before).unwrap(), serde_json::from_str(&after.text).unwrap());
        before["plugins"].as_array_mut().unwrap().push(ours().entry);
        assert_eq!(after.to_string(), before.to_string(), "compared as text: order counts");
    }

    #[test]
    fn a_version_that_the_plugin_does_not_speak_is_not_chained() {
        for (version, found) in
            [(json!("2.0.0"), "`2.0.0`"), (json!("0.2.0"), "`0.2.0`"), (Value::Null, "``")]
        {
            let text = json!({ "cniVersion": version, "name": "n", "plugins": [{ "type": "a" }] });
            let error =
                chained(&file("10-a.conflist", text.to_string()), &[], &ours()).unwrap_err().to_string();
            assert!(error.contains(found) && error.contains("0.3.1, 0.4.0"), "{error}");
        }
    }

    #[test]
    fn a_list_that_a_single_configuration_hides_is_overwritten_only_if_we_made_it() {
        let single = file("10-a.conf", r#"{"cniVersion":"1.0.0","name":"n","type":"a"}"#);
        let theirs = list("10-a.conflist", &["a", "b"]);
        let error = chained(&single, &[single.clone(), theirs], &ours()).unwrap_err().to_string();
        assert!(error.contains("10-a.conflist exists next to it"), "{error}");
        let former = list("10-a.conflist", &["a", "iocast"]);
        assert!(chained(&single, &[single.clone(), former], &ours()).unwrap().is_some());
    }

    #[test]
    fn a_single_configuration_without_a_name_cannot_be_a_list() {
        let nameless = file("10-a.conf", r#"{"cniVersion":"1.0.0","type":"a"}"#);
        assert!(chained(&nameless, &[], &ours()).unwrap_err().to_string().contains("no `name`"));
    }

    #[test]
    fn a_list_of_ours_alone_is_left_as_it_is() {
        assert_eq!(unchained(&list("10-a.conflist", &["iocast"])), None);
        assert_eq!(unchained(&list("10-a.conflist", &["a"])), None);
        assert_eq!(unchained(&file("10-a.conflist", "{")), None);
    }

    #[test]
    fn only_another_bpf_file_system_is_named_in_the_entry() {
        assert!(entry(Path::new("/sys/fs/bpf")).get("bpffs").is_none());
        assert_eq!(entry(Path::new("/run/bpf"))["bpffs"], "/run/bpf");
    }
}
