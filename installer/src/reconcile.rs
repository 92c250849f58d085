//! Reconciles the node with the configuration: one pass, the same at the start and later.
//!
//! What cannot be done yet, because an uplink is missing or a veth has just disappeared, is reported and retried, and does
//! not stop the rest.

use std::{collections::HashSet, net::Ipv4Addr, path::Path};

use abi::{Attachment, Domain, Uplink, text};
use datapath::{
    External, Home, Hook, State, attach, detach, ensure_fan, is_attached, is_filter, lan_address,
    link::{self, Link},
    printable,
};

use crate::{
    config::{Config, DomainConfig, Network, Ports},
    error::Error,
    groups,
    plan::{Interface, Plan, Present, plan},
    reserve::reserve,
    status,
    uplink::{self, Fault},
};

/// Whether a pass replaces programs that are already attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Programs {
    /// Attach the loaded programs everywhere, replacing those of an earlier process.
    Replace,
    /// Attach only where they are missing.
    Keep,
}

/// What came of a pass.
pub(crate) struct Reconciled {
    /// What could not be done, each with what to do about it.
    pub(crate) problems: Vec<String>,
    /// What the next pass does: programs of an earlier process may be left where one could not be attached.
    pub(crate) next: Programs,
}

/// One pass, with its problems so far.
pub(crate) struct Pass<'a> {
    bpffs: &'a Path,
    state: &'a mut State,
    programs: Programs,
    next: Programs,
    problems: Vec<String>,
}

/// Reconciles the node with `config`. An error if the pass could not be completed.
pub(crate) fn reconcile(
    bpffs: &Path,
    state: &mut State,
    config: &Config,
    programs: Programs,
) -> Result<Reconciled, Error> {
    let mut pass = Pass { bpffs, state, programs, next: Programs::Keep, problems: vec![] };
    let ranges: Vec<Ports> = config.domains.iter().flat_map(DomainConfig::ranges).collect();
    pass.problems.extend(reserve(&ranges).err().map(|error| error.to_string()));
    let fan = ensure_fan()?;
    let before = pass.state.config()?;
    pass.state.set_config(abi::Config { fan: fan.index, circuit_idle: config.circuit_idle, ..before })?;
    pass.attach(&fan, &[Hook::Fan]);
    let plan = pass.follow_uplinks(config)?;
    pass.problems.extend(groups::follow(&plan.joins)?);
    pass.follow_members()?;
    pass.tend_ports(&plan)?;
    pass.look_at_streams()?;
    Ok(Reconciled { problems: pass.problems, next: pass.next })
}

impl Pass<'_> {
    /// Writes the configuration, with the uplinks as they are now, and attaches to them.
    fn follow_uplinks(&mut self, config: &Config) -> Result<Plan, Error> {
        let before = self.state.uplinks()?;
        let mut interfaces = vec![];
        for domain in &config.domains {
            match interface(domain, &before) {
                Ok((name, interface, fault)) => {
                    self.problems.extend(fault.map(|fault| cut_off(&domain.name, &name, fault)));
                    interfaces.push((domain.uplink.as_str(), name, interface));
                }
                Err(error @ Error::NoUplink { .. }) => self.problems.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let find = |domain: &DomainConfig| {
            let found = interfaces.iter().find(|(uplink, ..)| *uplink == domain.uplink);
            found.map(|(.., interface)| interface.clone())
        };
        let _lock = self.state.lock()?;
        let members: Vec<u16> =
            self.state.attachments()?.iter().map(|(_, attachment)| attachment.domain).collect();
        let present = self.state.domains()?;
        let described = self.state.described()?;
        let present = Present { domains: &present, members: &members, described: &described };
        let plan = plan(config, present, find);
        self.write(config, &plan)?;
        for (index, _) in
            before.iter().filter(|(index, _)| plan.uplinks.iter().all(|(kept, _)| kept != index))
        {
            for hook in [Hook::FromLan, Hook::ToLan] {
                self.problems.extend(detach(self.bpffs, hook, *index).err().map(|error| error.to_string()));
            }
        }
        for (_, name, _) in &interfaces {
            if let Some(device) = link::by_name(name)? {
                self.attach(&device, &[Hook::FromLan, Hook::ToLan]);
            }
        }
        Ok(plan)
    }

    /// Writes the plan, and reports what of the configuration is not in it. The caller holds the lock.
    fn write(&mut self, config: &Config, plan: &Plan) -> Result<(), Error> {
        if plan.domains.iter().filter(|(_, domain)| domain.name[0] != 0).count() < config.domains.len() {
            self.problems.push(format!(
                "pods are still members of removed domains, so all {} domains of the node are in use; delete these \
                 pods",
                abi::DOMAINS
            ));
        }
        if let Some(port) = plan.doubled {
            self.problems.push(format!(
                "two domains relay UDP port {port} on the same uplink, so a search there could be for either; give one of \
                 them another `uplink`, or other `lan_ports`"
            ));
        }
        self.state.set_namespaces(&plan.namespaces)?;
        self.state.set_address_ranges(&plan.addresses)?;
        self.state.set_described(&plan.described)?;
        self.state.set_relays(&plan.lan_relays, &plan.pod_relays)?;
        self.state.set_networks(&plan.networks)?;
        self.state.set_groups(&plan.groups)?;
        self.state.set_uplinks(&plan.uplinks)?;
        for (number, domain) in &plan.domains {
            self.state.set_domain(*number, *domain)?;
        }
        Ok(())
    }

    /// Attaches to the members' veths, and cleans up after members whose veth is gone: the runtime does not always call
    /// DEL.
    fn follow_members(&mut self) -> Result<(), Error> {
        let _lock = self.state.lock()?;
        let members = self.state.members()?.into_iter();
        let addressed = members.filter(|(_, member)| member.lan_address != abi::NO_ADDRESS);
        let addressed: HashSet<u32> = addressed.map(|(interface, _)| interface).collect();
        for (key, attachment) in self.state.attachments()? {
            let (interface, has_address) = (attachment.member, addressed.contains(&attachment.member));
            let is_plain = self.programs == Programs::Keep && !has_address;
            if is_plain && is_filter(Hook::FromPod, interface).unwrap_or(false) {
                continue; // as nearly all are, nearly always
            }
            match link::by_index(interface)? {
                Some(veth) => self.follow_member(&veth, has_address)?,
                None => self.state.leave(&key, &attachment)?,
            }
        }
        Ok(())
    }

    /// Attaches to a member's veth, and to the bridge over which the member has a LAN address.
    fn follow_member(&mut self, veth: &Link, has_address: bool) -> Result<(), Error> {
        self.attach(veth, &[Hook::FromPod]);
        let bridge = if has_address { lan_address::bridge_of(veth)? } else { None };
        if let Some(bridge) = bridge {
            self.attach(&bridge, &[Hook::ToBridge]);
        }
        Ok(())
    }

    /// Lets external ports go that nobody needs, and the others go with their uplinks.
    fn tend_ports(&mut self, plan: &Plan) -> Result<(), Error> {
        let home = |(number, domain): &(u16, Domain)| {
            let (_, uplink) = plan.uplinks.iter().find(|(index, _)| *index == domain.uplink)?;
            let range = domain.first_port..=domain.last_port;
            Some(Home { domain: *number, address: uplink.address, range })
        };
        let homes: Vec<_> = plan.domains.iter().filter_map(home).collect();
        let problems = self.state.tend_ports(&homes, &plan.external_ports)?;
        self.problems.extend(problems.iter().map(ToString::to_string));
        Ok(())
    }

    /// Reports camera streams that do not reach their pods.
    fn look_at_streams(&mut self) -> Result<(), Error> {
        let attachments = self.state.attachments()?;
        for External { claim, .. } in self.state.externals()? {
            let Some(trouble) = status::trouble(&claim) else { continue };
            let is_holder =
                |held: &Attachment| (held.member, held.generation) == (claim.member, claim.generation);
            let holder = attachments.iter().find(|(_, attachment)| is_holder(attachment));
            if let Some((_, attachment)) = holder {
                let [namespace, pod] =
                    [&attachment.namespace[..], &attachment.pod].map(|name| printable(text(name)));
                let camera = Ipv4Addr::from(claim.peer);
                self.problems.push(format!(
                    "pod {namespace}/{pod}: the stream from camera {camera} does not arrive: its packets are {trouble}; \
                     lower the camera's packet size, or raise the pod's MTU"
                ));
            }
        }
        Ok(())
    }

    fn attach(&mut self, device: &Link, hooks: &[Hook]) {
        for hook in hooks {
            if let Err(error) = self.attach_one(device, *hook) {
                self.next = self.programs;
                self.problems.push(error.to_string());
            }
        }
    }

    fn attach_one(&self, device: &Link, hook: Hook) -> Result<(), Error> {
        if self.programs == Programs::Keep && is_attached(self.bpffs, hook, device)? {
            return Ok(());
        }
        match attach(self.bpffs, hook, device) {
            Err(_) if link::by_index(device.index)?.is_none() => Ok(()), // removed meanwhile
            outcome => Ok(outcome?),
        }
    }
}

/// The uplink of `domain` as it is now, or what is wrong with it. If it has no address at the moment, as while a DHCP client
/// renews it, it keeps the one it had `before`: otherwise its circuits would be reset.
fn interface(
    domain: &DomainConfig,
    before: &[(u32, Uplink)],
) -> Result<(String, Interface, Option<Fault>), Error> {
    let DomainConfig { name, uplink, .. } = domain;
    let absent = |what: String| Error::NoUplink { domain: name.clone(), what };
    let Some(device) = uplink::find(uplink)? else {
        let names = uplink::candidates()?.join(", ");
        return Err(absent(format!("{} (interfaces: {names})", uplink::absence(uplink))));
    };
    let addresses = link::addresses(device.index)?;
    let networks =
        addresses.iter().map(|address| Network { address: address.address.octets(), prefix: address.prefix });
    let networks = networks.collect();
    let now = addresses.first().map(|address| {
        let broadcast = address.broadcast.unwrap_or_else(|| address.natural_broadcast());
        (address.address.octets(), broadcast.octets())
    });
    let kept = before.iter().find(|(index, _)| *index == device.index);
    let (address, broadcast) = now
        .or_else(|| kept.map(|(_, uplink)| (uplink.address, uplink.broadcast)))
        .ok_or_else(|| absent(format!("interface `{}` has no IPv4 address", device.name)))?;
    let fault = Fault::of(&device, now.is_some());
    let Link { index, mac, name, .. } = device;
    Ok((name, Interface { index, mac, address, broadcast, networks }, fault))
}

/// The problem that a domain's uplink carries nothing.
fn cut_off(domain: &str, uplink: &str, fault: Fault) -> String {
    let advice = fault.advice(uplink);
    format!(
        "domain `{domain}`: uplink {uplink} {fault}, so its members here are cut off from the LAN; {advice}"
    )
}
