//! What a pod asks for by its annotations, whichever way they come.

use std::net::Ipv4Addr;

use membership::{
    Pin, address,
    annotation::{ADDRESS, DOMAIN, PORTS, PVS},
    pins, prefixes,
};
use serde_json::Value;

use crate::error::CniError;

/// A pod's annotations: an object, or null.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Annotations<'a>(pub(crate) &'a Value);

impl<'a> Annotations<'a> {
    /// The domain that the pod requests to join; `None` if it requests none.
    pub(crate) fn domain(self) -> Result<Option<&'a str>, CniError> {
        match self.0.get(DOMAIN) {
            None if self.0.get(ADDRESS).is_some() => Err(CniError::config(format!(
                "annotation {ADDRESS} is there without {DOMAIN}: add that one, with the domain that has the address"
            ))),
            None => Ok(None),
            Some(Value::String(domain)) if !domain.is_empty() => Ok(Some(domain)),
            Some(other) => Err(CniError::config(format!(
                "annotation {DOMAIN} is {other}: expected the name of a domain"
            ))),
        }
    }

    /// The external ports that the pod pins.
    pub(crate) fn pins(self) -> Result<Vec<Pin>, CniError> {
        Ok(self.text(PORTS)?.map_or(Ok(vec![]), pins::parse)?)
    }

    /// The address on the LAN that a pod called `pod` requests; `None` if it requests none.
    pub(crate) fn address(self, pod: &str) -> Result<Option<Ipv4Addr>, CniError> {
        Ok(self.text(ADDRESS)?.map(|text| address::parse(text, pod)).transpose()?)
    }

    /// How the names of the pod's PVs begin; empty if it does not say so.
    pub(crate) fn prefixes(self) -> Result<Vec<String>, CniError> {
        Ok(self.text(PVS)?.map_or(Ok(vec![]), prefixes::parse)?)
    }

    fn text(self, key: &str) -> Result<Option<&'a str>, CniError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(CniError::config(format!("annotation {key} is {other}: expected a string"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_only_by_the_annotation() {
        let asks =
            |annotations: Value| Annotations(&annotations).domain().map(|asked| asked.map(str::to_owned));
        assert_eq!(asks(Value::Null), Ok(None));
        assert_eq!(asks(json!({ "other": "x" })), Ok(None));
        assert_eq!(asks(json!({ "iocast.io/domain": "bl07" })), Ok(Some("bl07".into())));
        assert_eq!(asks(json!({ "iocast.io/domain": "" })).unwrap_err().code, 7);
    }

    #[test]
    fn an_address_is_asked_for_beside_a_domain() {
        let address = |annotations: Value| Annotations(&annotations).address("ioc-3");
        assert_eq!(address(json!({ "iocast.io/domain": "bl07" })), Ok(None));
        let range = json!({ "iocast.io/domain": "bl07", "iocast.io/address": "172.23.0.48/28" });
        assert_eq!(address(range), Ok(Some([172, 23, 0, 51].into())));
        let number = json!({ "iocast.io/domain": "bl07", "iocast.io/address": 50 });
        assert!(address(number).unwrap_err().message.contains("is 50: expected a string"));
        let alone = json!({ "iocast.io/address": "172.23.0.50" });
        let alone = Annotations(&alone).domain().unwrap_err();
        assert!(alone.code == 7 && alone.message.contains("without iocast.io/domain"), "{alone:?}");
    }
}
