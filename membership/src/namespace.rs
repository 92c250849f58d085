//! Namespaces whose pods may join a domain: each a name, or a prefix followed by `*`.

use datapath::member::Joining;

use crate::error::Error;

/// Whether it is a namespace's name (RFC 1123 label), or a prefix of one followed by `*`.
pub fn is_pattern(pattern: &str) -> bool {
    let stem = pattern.strip_suffix('*').unwrap_or(pattern);
    !pattern.is_empty()
        && pattern.len() <= 63
        && stem.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Checks that the domain's `patterns` let the pod's namespace join; without patterns all may.
pub(crate) fn check(patterns: &[String], joining: &Joining<'_>) -> Result<(), Error> {
    let Joining { namespace, domain, .. } = joining;
    if patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, namespace)) {
        return Ok(());
    }
    let mut patterns = patterns.to_vec();
    patterns.sort_unstable();
    Err(Error::Refused(format!(
        "pods in namespace `{namespace}` may not join the domain `{domain}`; those in {} may",
        patterns.join(", ")
    )))
}

/// Whether `name` is `pattern`, or starts with its prefix if that ends in `*`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |stem| name.starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_join(patterns: &[&str], namespace: &str) -> bool {
        let patterns: Vec<_> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let joining =
            Joining { domain: "lab", network: "n", namespace, pod: "ioc-a", address: None, prefixes: &[] };
        check(&patterns, &joining).is_ok()
    }

    #[test]
    fn namespaces_are_named_or_share_a_beginning() {
        assert!(may_join(&["bl07", "vac-*"], "bl07") && may_join(&["bl07", "vac-*"], "vac-2"));
        assert!(!may_join(&["bl07", "vac-*"], "bl07-test") && !may_join(&["bl07"], ""));
    }

    #[test]
    fn a_domain_that_names_no_namespace_takes_pods_of_all() {
        assert!(may_join(&[], "anything"));
    }

    #[test]
    fn a_refusal_names_those_that_may() {
        let joining = Joining {
            domain: "lab",
            network: "n",
            namespace: "other",
            pod: "ioc-a",
            address: None,
            prefixes: &[],
        };
        let error = check(&["vac-*".into(), "bl07".into()], &joining).unwrap_err().to_string();
        assert!(error.contains("`other`") && error.contains("`lab`"), "{error}");
        assert!(error.contains("bl07, vac-*"), "{error}");
    }
}
