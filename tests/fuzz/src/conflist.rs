//! A primary CNI's configuration: what is chained is chained once, and comes back when we leave.
#![no_main]
#![allow(dead_code)] // the agent uses the rest

#[path = "../../../installer/src/cni/conflist.rs"]
mod conflist;

use conflist::{File, Ours, chained, entry, unchained};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &str| {
    let before = File::new("10-n.conflist", input);
    let versions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"].map(str::to_owned).into();
    let ours = Ours { entry: entry("/sys/fs/bpf".as_ref()), versions };
    let Ok(Some(with_us)) = chained(&before, &[], &ours) else { return };
    assert_eq!(chained(&with_us, &[], &ours), Ok(None), "once is enough");
    let after = unchained(&with_us).unwrap_or(with_us);
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(parse(&after.text), parse(input));
});
