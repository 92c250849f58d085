//! What a runtime passes to the plugin on stdin. Its length chooses the verb.
#![no_main]
#![allow(dead_code)] // the plugin uses the rest

#[path = "../../../plugin/src/annotations.rs"]
mod annotations;
#[path = "../../../plugin/src/error.rs"]
mod error;
#[path = "../../../plugin/src/request.rs"]
mod request;

use error::CniError;
use libfuzzer_sys::fuzz_target;
use request::{Environment, Request, Verb, version_for_errors};

const VERBS: [Verb; 6] = [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status, Verb::Version];

fuzz_target!(|text: &str| {
    let environment = Environment {
        verb: VERBS[text.len() % VERBS.len()],
        container: "c1".into(),
        netns: "/run/netns/x".into(),
        interface: "eth0".into(),
        pod: None,
    };
    assert!(!version_for_errors(text).is_empty());
    match Request::parse(text, &environment) {
        Ok(request) => {
            check(request.annotations().domain());
            check(request.annotations().pins());
            check(request.annotations().address("ioc-3"));
            check(request.bpffs());
            check(request.valid_attachments());
            check(request.network());
        }
        Err(error) => said(&error),
    }
});

fn check<T>(outcome: Result<T, CniError>) {
    outcome.as_ref().err().into_iter().for_each(said);
}

/// An error says what is wrong, as JSON in a version that the runtime knows, in words that can be shown.
fn said(error: &CniError) {
    let json: serde_json::Value = serde_json::from_str(&error.to_json("1.0.0")).unwrap();
    assert!(!error.message.is_empty() && json["code"].is_u64());
    assert_eq!(datapath::printable(&error.message), json["msg"]);
}
