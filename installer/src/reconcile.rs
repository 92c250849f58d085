//! Making the node as the configuration says: one pass, the same at start and ever after.
//!
//! What cannot be done now, because an uplink is not there yet, is a problem to report and to try again, not a reason to
//! stop: the other domains work.

use std::path::Path;

use datapath::{Hook, State, attach, ensure_fan, is_attached, link};

use crate::{
    config::{Config, DomainConfig, Ports},
    plan::{Interface, plan},
    reserve::reserve,
};

/// How far the programs are replaced by a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Programs {
    /// Attach the loaded programs everywhere, in place of those that an earlier process left.
    Replace,
    /// Attach only where they are missing.
    Keep,
}

/// Makes the node as `config` says. Returns what could not be done, each with what to do about it.
pub(crate) fn reconcile(
    bpffs: &Path,
    state: &mut State,
    config: &Config,
    programs: Programs,
) -> Result<Vec<String>, datapath::Error> {
    let mut problems = vec![];
    let ranges: Vec<Ports> = config.domains.iter().map(|domain| domain.ports).collect();
    problems.extend(reserve(&ranges).err());

    let mut interfaces = vec![];
    for domain in &config.domains {
        match interface(domain) {
            Ok(interface) => interfaces.push((domain.uplink.clone(), interface)),
            Err(problem) => problems.push(problem),
        }
    }
    let find = |domain: &DomainConfig| {
        interfaces.iter().find(|(name, _)| *name == domain.uplink).map(|(_, interface)| *interface)
    };
    let fan = ensure_fan(state)?;
    let lock = state.lock()?;
    let plan = plan(config, &state.domains()?, find);
    state.set_relays(&plan.lan_relays, &plan.pod_relays)?;
    state.set_uplinks(&plan.uplinks)?;
    for (number, domain) in &plan.domains {
        state.set_domain(*number, *domain)?;
    }
    drop(lock);

    ensure_attached(bpffs, fan, &[Hook::Fan], programs)?;
    for (name, _) in &interfaces {
        ensure_attached(bpffs, name, &[Hook::FromLan, Hook::ToLan], programs)?;
    }
    for (_, attachment) in state.attachments()? {
        if let Some(veth) = link::by_index(attachment.member)? {
            ensure_attached(bpffs, &veth.name, &[Hook::FromPod], programs)?;
        }
    }
    Ok(problems)
}

fn ensure_attached(
    bpffs: &Path,
    name: &str,
    hooks: &[Hook],
    programs: Programs,
) -> Result<(), datapath::Error> {
    let Some(device) = link::by_name(name)? else { return Ok(()) }; // gone since we looked
    for hook in hooks {
        if programs == Programs::Replace || !is_attached(bpffs, *hook, device.index)? {
            attach(bpffs, *hook, &device)?;
        }
    }
    Ok(())
}

/// The uplink of `domain` as it is now, or what is wrong with it.
fn interface(domain: &DomainConfig) -> Result<Interface, String> {
    let DomainConfig { name, uplink, .. } = domain;
    let say =
        |what: String| format!("domain `{name}`: {what}; set `uplink` to the node's interface on that LAN");
    let device = link::by_name(uplink).map_err(|error| error.to_string())?.ok_or_else(|| {
        let names = link::names().unwrap_or_default().join(", ");
        say(format!("there is no interface `{uplink}` (there are: {names})"))
    })?;
    let addresses = link::addresses(device.index).map_err(|error| error.to_string())?;
    let address =
        addresses.first().ok_or_else(|| say(format!("interface `{uplink}` has no IPv4 address")))?;
    Ok(Interface {
        index: device.index,
        mac: device.mac,
        address: address.address.octets(),
        broadcast: address.broadcast.unwrap_or_else(|| address.natural_broadcast()).octets(),
    })
}
