//! What an ADD costs.

use std::time::Instant;

use lab::{DOMAIN, Lab, Options, Pod, Result, Topology, turn};

use crate::cni::{configuration, environment, plugin, previous_result};

lab::in_both_topologies! { the_cost_of_add_is_reported }

fn the_cost_of_add_is_reported(topology: Topology) -> Result<()> {
    turn::take(turn::Kind::Alone);
    let lab = Lab::up(Options::new(topology))?;
    let time = |domain: Option<&str>, pod: &Pod| -> Result<f64> {
        let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), domain, "");
        let start = Instant::now();
        let (success, stdout) = plugin(&lab.sandbox, &environment("ADD", &pod.attachment), &stdin)?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        assert!(success, "{stdout}");
        Ok(took)
    };
    let (mut member, mut other) = (vec![], vec![]);
    for number in 0..20 {
        let pod = lab.plain_pod(&format!("ioc-{number}"))?;
        other.push(time(None, &pod)?);
        member.push(time(Some(DOMAIN), &pod)?);
    }
    for (what, times) in [("member", &mut member), ("non-member", &mut other)] {
        times.sort_by(f64::total_cmp);
        let figure = format!("min {:.1} ms, median {:.1} ms, max {:.1} ms", times[0], times[10], times[19]);
        lab::report(&format!("plugin wall time, ADD of a {what} ({topology:?})"), &figure);
    }
    Ok(())
}
