//! One round of the soak: every trouble once, under the eyes of every client.

use std::process::Command;

use lab::turn;

#[test]
fn a_round_of_the_soak_explains_every_loss_and_leaves_nothing() {
    let report = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("{error}"));
    turn::take(turn::Kind::Waits);
    let mut soak = Command::new(env!("CARGO_BIN_EXE_iocast-lab"));
    soak.args(["soak", "--minutes", "0", "--seed", "1", "--topology", "routed", "--report"])
        .arg(report.path());
    let output = lab::output_of(&mut soak).unwrap_or_else(|error| panic!("{error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let written = std::fs::read_to_string(report.path()).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains(&written) && written.contains("| an IOC restarts | 1 |"), "{said}");
}
