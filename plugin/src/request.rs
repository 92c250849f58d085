//! The runtime's request: the environment, and the network configuration on stdin.
//!
//! Only what is needed is decoded. `prevResult` is kept as text, so that nothing in it is lost, whichever version or plugin
//! wrote it.

use std::{env, ffi::OsString, path::PathBuf};

use abi::AttachmentKey;
use datapath::{BPFFS, member};
use membership::annotation::CAPABILITY;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{annotations::Annotations, error::CniError};

/// CNI versions that this plugin supports, oldest first.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A CNI verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// The CNI version that introduced the verb.
    fn since(self) -> &'static str {
        match self {
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
            _ => VERSIONS[0],
        }
    }

    fn wants_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }

    fn wants_netns(self) -> bool {
        matches!(self, Self::Add | Self::Check)
    }
}

/// The parameters in the environment, valid for the verb.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) verb: Verb,
    /// `CNI_CONTAINERID`; empty for verbs without one.
    pub(crate) container: String,
    /// `CNI_NETNS`; empty if not set.
    pub(crate) netns: PathBuf,
    /// `CNI_IFNAME`; empty for verbs without one.
    pub(crate) interface: String,
    /// The pod's namespace and name from `CNI_ARGS`, if a CRI runtime sets them.
    pub(crate) pod: Option<(String, String)>,
}

impl Environment {
    pub(crate) fn read() -> Result<Self, CniError> {
        Self::parse(|name| env::var_os(name).unwrap_or_default())
    }

    fn parse(read: impl Fn(&str) -> OsString) -> Result<Self, CniError> {
        let get = |name| read(name).to_string_lossy().into_owned();
        let command = get("CNI_COMMAND");
        let verb = Verb::parse(&command).ok_or_else(|| {
            CniError::environment(format!(
                "CNI_COMMAND is `{command}`: expected ADD, DEL, CHECK, GC, STATUS or VERSION"
            ))
        })?;
        let (container, netns, interface) = (get("CNI_CONTAINERID"), read("CNI_NETNS"), get("CNI_IFNAME"));
        let needed = [
            ("CNI_CONTAINERID", verb.wants_container() && container.is_empty()),
            ("CNI_NETNS", verb.wants_netns() && netns.is_empty()),
            ("CNI_IFNAME", verb.wants_container() && interface.is_empty()),
        ];
        let missing: Vec<_> = needed.iter().filter(|(_, missing)| *missing).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            return Err(CniError::environment(format!("{command} needs {} to be set", missing.join(", "))));
        }
        if verb.wants_container() {
            check_container(&container)?;
            check_interface(&interface)?;
        }
        Ok(Self { verb, container, netns: netns.into(), interface, pod: pod(&get("CNI_ARGS")) })
    }

    /// The key of the attachment.
    pub(crate) fn key(&self) -> Result<AttachmentKey, CniError> {
        key(&self.container, &self.interface)
    }
}

/// The key of an attachment.
pub(crate) fn key(container: &str, interface: &str) -> Result<AttachmentKey, CniError> {
    member::key(container, interface).ok_or_else(|| {
        CniError::environment(format!("container id `{container}` or interface `{interface}` is too long"))
    })
}

fn check_container(id: &str) -> Result<(), CniError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(plain) && id.len() <= 128 {
        return Ok(());
    }
    Err(CniError::environment(format!(
        "CNI_CONTAINERID is `{id}`: expected a letter or digit, then letters, digits, `_`, `.` or `-`, at most 128 in all"
    )))
}

fn check_interface(name: &str) -> Result<(), CniError> {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if name.len() <= 15 && name != "." && name != ".." && !name.contains(forbidden) {
        return Ok(());
    }
    Err(CniError::environment(format!(
        "CNI_IFNAME is `{name}`: expected an interface name of at most 15 bytes, without `/`, `:` or spaces"
    )))
}

/// The pod's namespace and name; the keys may come in any order.
fn pod(arguments: &str) -> Option<(String, String)> {
    let value = |key: &str| {
        let pair = arguments.split(';').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        pair.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    Some((value("K8S_POD_NAMESPACE")?, value("K8S_POD_NAME")?))
}

/// The parts of the network configuration that are needed. Everything but the version is optional and of any type here: it
/// must not fail a pod without the annotation.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Stdin {
    #[serde(rename = "cniVersion")]
    version: String,
    name: Value,
    #[serde(rename = "prevResult")]
    previous: Option<Box<RawValue>>,
    #[serde(rename = "runtimeConfig")]
    runtime: Value,
    bpffs: Value,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Value>,
    #[serde(rename = "cni.dev/attachments")]
    valid_by_old_name: Option<Value>,
}

/// The runtime's request, valid for the verb.
pub(crate) struct Request {
    /// The CNI version to answer in.
    pub(crate) version: String,
    /// The result of the plugins before us, verbatim.
    pub(crate) previous: Option<Box<RawValue>>,
    name: Value,
    runtime: Value,
    bpffs: Value,
    valid: Option<Value>,
}

/// An attachment that GC must keep.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    #[serde(rename = "ifname")]
    pub(crate) interface: String,
}

impl Request {
    pub(crate) fn parse(input: &str, environment: &Environment) -> Result<Self, CniError> {
        let verb = environment.verb;
        if verb == Verb::Version && input.trim().is_empty() {
            // Older runtimes pass nothing.
            return Ok(Self::from_stdin(Stdin { version: VERSIONS[4].into(), ..Stdin::default() }));
        }
        let stdin = object(input).map_err(|error| {
            CniError::decode(format!("the network configuration on stdin is not valid: {error}"))
        })?;
        if verb == Verb::Version {
            // Answer whatever version the runtime uses: it calls VERSION to learn ours.
            let unknown = stdin.version.is_empty();
            let version = if unknown { VERSIONS[4].into() } else { stdin.version.clone() };
            return Ok(Self::from_stdin(Stdin { version, ..stdin }));
        }
        let known = VERSIONS.iter().position(|version| *version == stdin.version);
        let since = VERSIONS.iter().position(|version| *version == verb.since());
        if known.is_none() || known < since {
            return Err(CniError::version(format!(
                "cniVersion is `{}`: {} is supported in {}",
                stdin.version,
                format!("{verb:?}").to_uppercase(),
                VERSIONS[since.unwrap_or(0)..].join(", "),
            )));
        }
        Ok(Self::from_stdin(stdin))
    }

    fn from_stdin(stdin: Stdin) -> Self {
        Self {
            version: stdin.version,
            previous: stdin.previous.filter(|previous| previous.get() != "null"),
            name: stdin.name,
            runtime: stdin.runtime,
            bpffs: stdin.bpffs,
            valid: stdin.valid.or(stdin.valid_by_old_name),
        }
    }

    /// The pod's annotations; the value of the capability is an object, or null.
    pub(crate) fn annotations(&self) -> Annotations<'_> {
        Annotations(self.runtime.get(CAPABILITY).unwrap_or(&Value::Null))
    }

    /// The network's name.
    pub(crate) fn network(&self) -> Result<&str, CniError> {
        match &self.name {
            Value::String(name) if !name.is_empty() && name.len() < 64 => Ok(name),
            other => Err(CniError::config(format!(
                "`name` is {other}: expected the network's name, at most 63 bytes"
            ))),
        }
    }

    /// The BPF file system where the datapath is pinned.
    pub(crate) fn bpffs(&self) -> Result<PathBuf, CniError> {
        match &self.bpffs {
            Value::Null => Ok(BPFFS.into()),
            Value::String(path) if path.starts_with('/') => Ok(path.into()),
            other => Err(CniError::config(format!("`bpffs` is {other}: expected an absolute path"))),
        }
    }

    /// The attachments that GC must keep; `None` if the runtime passed no list, so nothing may be removed.
    pub(crate) fn valid_attachments(&self) -> Result<Option<Vec<ValidAttachment>>, CniError> {
        let Some(valid) = self.valid.clone() else { return Ok(None) };
        serde_json::from_value(valid).map(Some).map_err(|error| {
            CniError::config(format!(
                "`cni.dev/valid-attachments` is not a list of {{containerID, ifname}}: {error}"
            ))
        })
    }
}

/// Decodes a JSON object; serde would also accept an array for a struct.
fn object(input: &str) -> serde_json::Result<Stdin> {
    if !input.trim_start().starts_with('{') {
        return Err(serde::de::Error::custom("expected a JSON object"));
    }
    serde_json::from_str(input)
}

/// The version in which to report an error about `input`: its own if we support it, otherwise our newest.
pub(crate) fn version_for_errors(input: &str) -> String {
    let stdin = object(input).unwrap_or_default();
    let known = VERSIONS.contains(&stdin.version.as_str());
    if known { stdin.version } else { VERSIONS[VERSIONS.len() - 1].into() }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<Environment, CniError> {
        Environment::parse(|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).into())
                .unwrap_or_default()
        })
    }

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/var/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
    ];

    fn request(input: &str) -> Request {
        Request::parse(input, &environment(&ADD).unwrap()).unwrap()
    }

    const INPUT: &str = include_str!("../../tests/fuzz/seeds/request/all-keys");

    proptest! {
        #[test]
        fn what_is_changed_anywhere_is_understood_or_refused_with_a_message(
            cut in any::<Index>(), length in 0usize..9, inserted in "[ -~\\n]{0,5}",
        ) {
            let at = cut.index(INPUT.len());
            let end = (at + length).min(INPUT.len());
            let text = format!("{}{inserted}{}", &INPUT[..at], &INPUT[end..]);
            let said = |error: CniError| {
                prop_assert!(!error.message.is_empty());
                Ok(())
            };
            match Request::parse(&text, &environment(&ADD).unwrap()) {
                Ok(request) => {
                    let annotations = request.annotations();
                    annotations.domain().map(drop).or_else(said)?;
                    annotations.pins().map(drop).or_else(said)?;
                    annotations.address("ioc-3").map(drop).or_else(said)?;
                    request.bpffs().map(drop).or_else(said)?;
                    request.valid_attachments().map(drop).or_else(said)?;
                }
                Err(error) => said(error)?,
            }
        }
    }

    #[test]
    fn missing_parameters_are_named_all_at_once() {
        let error = environment(&[("CNI_COMMAND", "ADD")]).unwrap_err();
        assert_eq!(
            error,
            CniError::environment("ADD needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME to be set")
        );
    }

    #[test]
    fn del_does_without_a_namespace() {
        let variables = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        assert!(environment(&variables).is_ok());
    }

    #[test]
    fn names_with_forbidden_characters_are_refused() {
        for (variable, value) in [
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "a b"),
            ("CNI_IFNAME", "an-interface-too-long"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", ".."),
        ] {
            let variables = ADD.map(|(key, old)| (key, if key == variable { value } else { old }));
            let error = environment(&variables).unwrap_err();
            assert!(
                error.code == 4 && error.message.contains(variable) && error.message.contains(value),
                "{error:?}"
            );
        }
    }

    #[test]
    fn the_pods_name_is_found_in_arguments_of_any_order() {
        let expected = Some(("beamline".to_owned(), "ioc-a".to_owned()));
        assert_eq!(pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=beamline;K8S_POD_NAME=ioc-a"), expected);
        assert_eq!(pod("K8S_POD_NAME=ioc-a;K8S_POD_UID=1;K8S_POD_NAMESPACE=beamline"), expected);
        assert_eq!(pod("K8S_POD_NAME=;K8S_POD_NAMESPACE=beamline"), None);
        assert_eq!(pod(""), None);
    }

    #[test]
    fn annotations_come_by_the_capability() {
        let domain = |runtime: &str| {
            let request =
                request(&format!(r#"{{"cniVersion":"1.0.0","name":"n","runtimeConfig":{runtime}}}"#));
            request.annotations().domain().map(|domain| domain.map(str::to_owned))
        };
        for none in ["null", "{}", "[]", r#"{"io.kubernetes.cri.pod-annotations":null}"#] {
            assert_eq!(domain(none), Ok(None), "{none}");
        }
        let asks = r#"{"io.kubernetes.cri.pod-annotations":{"iocast.io/domain":"bl07"}}"#;
        assert_eq!(domain(asks), Ok(Some("bl07".into())));
    }

    #[test]
    fn a_previous_result_survives_to_the_letter() {
        let previous = r#"{ "cniVersion":"0.4.0", "x.y/z": 1.000, "ips":[{"version":"4"}], "big": 12345678901234567890123 }"#;
        let request = request(&format!(r#"{{"cniVersion":"0.4.0","name":"n","prevResult":{previous}}}"#));
        assert_eq!(request.previous.unwrap().get(), previous);
    }

    #[test]
    fn gc_without_a_list_keeps_everything() {
        let valid = |keys: &str| {
            request(&format!(r#"{{"cniVersion":"1.1.0","name":"n"{keys}}}"#)).valid_attachments()
        };
        assert_eq!(valid(""), Ok(None));
        assert_eq!(valid(r#","cni.dev/valid-attachments":[]"#), Ok(Some(vec![])));
        let one = ValidAttachment { container: "c".into(), interface: "eth0".into() };
        assert_eq!(
            valid(r#","cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]"#),
            Ok(Some(vec![one]))
        );
        assert_eq!(valid(r#","cni.dev/valid-attachments":[{"containerID":1}]"#).unwrap_err().code, 7);
    }
}
