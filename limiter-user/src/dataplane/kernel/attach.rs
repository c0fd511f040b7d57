//! Puts programs on interfaces and keeps them there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use limiter_common::abi::{self, MAX_INTERFACES, MapSpec};

use super::links::{self, LinkState, Live, PinnedLink};
use super::log::KernelLog;
use super::maps::{self, Maps};
use super::netlink::{self, Running};
use super::pins::{self, Pins};
use super::programs::{Job, Placing, Program, Programs};
use super::{AttachMode, Attached, ProtectError, bpf, counters};
use crate::config::{self, Mode};

/// Puts programs on interfaces.
#[derive(Debug)]
pub struct Protection {
    pins: Arc<Pins>,
    maps: Arc<Maps>,
    programs: Arc<Programs>,
    cpus: usize,
    replace: bool,
    /// Interfaces that were asked for: links of theirs are never given up.
    wanted: BTreeSet<String>,
}

impl Protection {
    pub(super) fn new(
        pins: Arc<Pins>,
        maps: Arc<Maps>,
        programs: Arc<Programs>,
        replace: bool,
    ) -> anyhow::Result<Self> {
        for link in pins.links()? {
            // A change of mode was cut off between the new link and the end of the old one's pin.
            if matches!(link.state, LinkState::Dead) && pins::is_spare(&link.path) {
                remove_pin(&link.path)?;
            }
        }
        let cpus = counters::possible_cpus().context("cannot count the CPUs")?;
        Ok(Self { pins, maps, programs, cpus, replace, wanted: BTreeSet::new() })
    }

    /// Loads a program with the interface's limits and puts it there: by atomic update if an earlier program of
    /// limiter runs there (also one of another ABI version), else by a new pinned link. To be called again when the
    /// limits change or the interface was re-created.
    ///
    /// # Errors
    ///
    /// See [`ProtectError`]. Whatever protected the interface before still does.
    pub fn protect(&mut self, interface: &config::Interface) -> Result<Attached, ProtectError> {
        self.wanted.insert(interface.name.clone());
        let programs = Arc::clone(&self.programs);
        let mut placing = programs.placing();
        let name = || interface.name.clone();
        let failed = |error| ProtectError::Failed { interface: name(), error };
        let Some(ifindex) = netlink::index_of(&interface.name) else {
            return Err(ProtectError::NoInterface { interface: name() });
        };
        let running = netlink::running(ifindex)
            .with_context(|| "cannot ask for its XDP programs".to_owned())
            .map_err(failed)?;
        let slot = self.slot(&interface.name).map_err(failed)?;
        let live = self.live(&interface.name, ifindex).map_err(failed)?;
        let attached = match live {
            Some((path, live)) if fits(interface.mode, live.running.mode) => {
                let job = Job { interface: interface.clone(), slot, mode: live.running.mode };
                self.update(&mut placing, job, &path, live).map_err(failed)?
            }
            Some((path, live)) => {
                let job = Job { interface: interface.clone(), slot, mode: live.running.mode };
                self.change_mode(&mut placing, job, &path, &live).map_err(failed)?
            }
            None => {
                self.clear(interface, ifindex, &running)?;
                let jobs = modes(interface.mode).iter().map(|mode| Job {
                    interface: interface.clone(),
                    slot,
                    mode: *mode,
                });
                let programs: Vec<_> = jobs.map(|job| (job, None)).collect();
                self.attach(&mut placing, ifindex, programs).map_err(failed)?
            }
        };
        Ok(attached)
    }

    /// How the interface is protected at this moment, as the kernel tells it; `None` if it is not, for instance
    /// because it was removed and re-created.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn attached(&self, name: &str) -> anyhow::Result<Option<Attached>> {
        let Some(ifindex) = netlink::index_of(name) else { return Ok(None) };
        let Some((path, live)) = self.live(name, ifindex)? else { return Ok(None) };
        let Running { program_id, mode } = live.running;
        // Of one that this process put there it is known; to look at others takes CAP_SYS_ADMIN.
        let program = self.programs.placed(name, program_id).or_else(|| bpf::program_info(program_id).ok());
        let frags = program.as_ref().is_some_and(|program| program.name == abi::PROGRAM_FRAGS);
        let has = |spec: &&MapSpec| {
            program.as_ref().is_some_and(|it| it.maps.contains(&self.maps.get(spec).info().id))
        };
        let superseded = !path.starts_with(self.pins.directory()) || !maps::GROWING.iter().all(has);
        Ok(Some(Attached { interface: name.to_owned(), ifindex, mode, frags, program_id, superseded }))
    }

    /// Whether what runs there is what was last put there by this.
    pub fn put_there(&self, attached: &Attached) -> bool {
        self.programs.put_there(&attached.interface, attached.program_id)
    }

    /// Names of all interfaces that have a link, configured or not: the names they have now, or had when they were
    /// removed.
    ///
    /// # Errors
    ///
    /// If the pins cannot be read.
    pub fn linked(&self) -> anyhow::Result<Vec<String>> {
        let names: BTreeSet<String> = self.pins.links()?.iter().map(PinnedLink::interface).collect();
        Ok(names.into_iter().collect())
    }

    /// Takes the program off the interface and gives its counter slot back. Whether there was one.
    ///
    /// # Errors
    ///
    /// If the pin cannot be removed.
    pub fn release(&mut self, name: &str) -> anyhow::Result<bool> {
        self.wanted.remove(name);
        self.programs.placing().remove(name);
        let mut links = self.pins.links()?;
        links.retain(|link| link.interface() == name);
        for link in &links {
            pins::remove_link(&link.path)?;
        }
        if let Some(slot) = self.find_slot(name)? {
            counters::set_interface(&self.maps, slot, "")
                .with_context(|| format!("cannot free the counters of interface {name}"))?;
        }
        Ok(!links.is_empty())
    }

    /// Removes pins of other ABI versions and of tables that were rebuilt, with links that nobody asked for. To be
    /// called when all configured interfaces are protected; those of interfaces that could not be are kept. Returns
    /// what it did, as sentences.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn settle(&mut self) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        let kept: BTreeSet<u32> =
            links_in(&self.pins.directory())?.iter().filter_map(|link| Some(link.live()?.id)).collect();
        for set in self.pins.superseded()? {
            let mut needed = false;
            for link in links_in(&set)? {
                let interface = link.interface();
                if link.live().is_some_and(|live| kept.contains(&live.id)) {
                    remove_pin(&link.path)?;
                } else if self.wanted.contains(&interface) && netlink::index_of(&interface).is_some() {
                    needed = true;
                } else {
                    pins::remove_link(&link.path)?;
                    done.push(format!(
                        "interface {interface}: no longer configured, its old link is removed"
                    ));
                }
            }
            if !needed {
                pins::remove_set(&set)?;
                done.push(format!("{}: taken over and removed", set.display()));
            }
        }
        Ok(done)
    }

    /// The log lines of the programs that this protects, now and later; run it as a task.
    pub fn log(&self) -> KernelLog {
        self.programs.log().clone()
    }

    /// Our link that holds a program on the interface, and where it is pinned: under the interface's name, or under the
    /// one it had before it was renamed.
    fn live(&self, name: &str, ifindex: u32) -> anyhow::Result<Option<(PathBuf, Live)>> {
        let mut found = None;
        for PinnedLink { path, state } in self.pins.links()? {
            match state {
                // Those of this version come first.
                LinkState::Live(live) if live.ifindex == ifindex => found = found.or(Some((path, live))),
                LinkState::Live(_) | LinkState::Dead => {}
                LinkState::Unreadable(error) if pins::interface_of(&path).as_deref() == Some(name) => {
                    return Err(error).with_context(|| format!("cannot read the link {}", path.display()));
                }
                // Most likely of another interface, which is no reason to leave this one open.
                LinkState::Unreadable(error) => {
                    tracing::debug!("cannot read the link {}: {error}", path.display());
                }
            }
        }
        Ok(found)
    }

    /// Replaces the program of a live link, and moves its pin to where this version keeps it.
    fn update(
        &self,
        placing: &mut Placing<'_>,
        job: Job,
        pin: &Path,
        live: Live,
    ) -> anyhow::Result<Attached> {
        let program = placing.load(&job)?;
        bpf::link_update(live.link.as_fd(), program.fd()?.as_fd())
            .context("the kernel refused to replace the program")?;
        let path = self.pins.link_path(&job.interface.name);
        let attached = attached(&job, live.ifindex, &program);
        placing.put(job, live.link, program);
        if pin != path {
            self.vacate(&path)?;
            rename(pin, &path)?;
        }
        self.remove_other_pins(live.id, &path)?;
        Ok(attached)
    }

    /// Attaches in another mode than the link is in. Modes exclude each other, so this leaves a gap of two system calls,
    /// since all programs are loaded before; they take some milliseconds, in which the kernel waits for its readers. If
    /// the new mode does not work, the old one is put back.
    fn change_mode(
        &self,
        placing: &mut Placing<'_>,
        job: Job,
        pin: &Path,
        live: &Live,
    ) -> anyhow::Result<Attached> {
        let ifindex = live.ifindex;
        let fallback = placing.load(&job)?;
        let fallback_fd = fallback.fd()?;
        let mut programs = Vec::new();
        for mode in modes(job.interface.mode) {
            let job = Job { mode: *mode, ..job.clone() };
            let program = placing.load(&job)?;
            programs.push((job, Some(program)));
        }
        // Frees the path for the new link's pin.
        let path = self.pins.link_path(&job.interface.name);
        if pin != path {
            self.vacate(&path)?;
        }
        let spare = self.pins.spare_link_path();
        rename(pin, &spare)?;
        self.remove_other_pins(live.id, &spare)?;

        bpf::link_detach(live.link.as_fd()).context("cannot take off the program in the former mode")?;
        match self.attach(placing, ifindex, programs) {
            Ok(attached) => {
                remove_pin(&spare)?;
                Ok(attached)
            }
            Err(error) => {
                let link = bpf::link_create(fallback_fd.as_fd(), ifindex, flag(job.mode))
                    .context("and the former mode cannot be restored")
                    .context(format!("{error:#}"))?;
                self.pin(&link, &path)?;
                remove_pin(&spare)?;
                let mode = job.mode;
                placing.put(job, link, fallback);
                Err(error.context(format!("still protected in {} mode", mode.label())))
            }
        }
    }

    /// Frees the path for another link: what is pinned there keeps its program, if it is on an interface.
    fn vacate(&self, path: &Path) -> anyhow::Result<()> {
        if !path.exists() {
            return Ok(());
        }
        match PinnedLink::look(path.to_owned()).state {
            LinkState::Live(live) => {
                let its_own = self.pins.link_path(&live.interface);
                let to = if its_own.exists() { self.pins.spare_link_path() } else { its_own };
                rename(path, &to)
            }
            LinkState::Dead => pins::remove_link(path),
            LinkState::Unreadable(error) => {
                Err(error).with_context(|| format!("cannot read the link {}", path.display()))
            }
        }
    }

    /// Leaves a link the one pin at `path`.
    fn remove_other_pins(&self, link: u32, path: &Path) -> anyhow::Result<()> {
        for pinned in self.pins.links()? {
            if pinned.path != path && pinned.live().is_some_and(|live| live.id == link) {
                remove_pin(&pinned.path)?;
            }
        }
        Ok(())
    }

    /// Makes way for a new link: removes our dead pins, and strangers if that was asked for.
    fn clear(
        &self,
        interface: &config::Interface,
        ifindex: u32,
        running: &[Running],
    ) -> Result<(), ProtectError> {
        let failed = |error| ProtectError::Failed { interface: interface.name.clone(), error };
        for link in self.pins.links().map_err(failed)? {
            if link.named_after() == interface.name && link.live().is_none() {
                pins::remove_link(&link.path).map_err(failed)?;
            }
        }
        self.vacate(&self.pins.link_path(&interface.name)).map_err(failed)?;
        for stranger in running {
            let id = stranger.program_id;
            if !self.replace {
                let name = bpf::program_info(id).map(|program| program.name).ok();
                return Err(ProtectError::Stranger { interface: interface.name.clone(), id, name });
            }
            match bpf::find_xdp_link(id, ifindex) {
                Ok(Some(link)) => bpf::link_detach(link.as_fd()),
                // Without CAP_SYS_ADMIN links cannot be looked for; a program that hangs on one stays.
                Ok(None) | Err(_) => netlink::detach(ifindex, flag(stranger.mode)),
            }
            .with_context(|| {
                format!(
                    "cannot take off the XDP program in the way (id {id}); if it hangs on a link: bpftool link detach"
                )
            })
            .map_err(failed)?;
        }
        Ok(())
    }

    /// Makes a new link for the first job that works; its program may be loaded already.
    fn attach(
        &self,
        placing: &mut Placing<'_>,
        ifindex: u32,
        programs: Vec<(Job, Option<Program>)>,
    ) -> anyhow::Result<Attached> {
        let mut refusal = anyhow!("no mode is allowed");
        for (job, program) in programs {
            let program = program.map_or_else(|| placing.load(&job), Ok)?;
            let mode = job.mode;
            match bpf::link_create(program.fd()?.as_fd(), ifindex, flag(mode)) {
                Ok(link) => {
                    self.pin(&link, &self.pins.link_path(&job.interface.name))?;
                    let attached = attached(&job, ifindex, &program);
                    placing.put(job, link, program);
                    return Ok(attached);
                }
                Err(error) => {
                    let text = format!("cannot attach in {} mode ({})", mode.label(), hint(&error, mode));
                    refusal = anyhow::Error::new(error).context(text);
                }
            }
        }
        Err(refusal)
    }

    fn pin(&self, link: &OwnedFd, path: &Path) -> anyhow::Result<()> {
        bpf::pin(link.as_fd(), path).map_err(|error| pins::cannot_pin(path, error))
    }

    /// The interface's place in the counters: the one it has, else a free one, else that of an interface that is not
    /// protected any more.
    fn slot(&self, name: &str) -> anyhow::Result<u32> {
        if let Some(slot) = self.find_slot(name)? {
            return Ok(slot);
        }
        let linked = self.linked()?;
        let free = |holder: &str| {
            holder.is_empty() || !(linked.iter().any(|name| name == holder) || self.wanted.contains(holder))
        };
        let mut candidates = Vec::new();
        for slot in 0..MAX_INTERFACES {
            let holder = counters::interface(&self.maps, slot).context("cannot read the interfaces")?;
            if free(&holder) {
                candidates.push((!holder.is_empty(), slot));
            }
        }
        let (_, slot) = candidates.into_iter().min().ok_or_else(|| {
            anyhow!("{MAX_INTERFACES} interfaces are protected; there is no room for another")
        })?;
        counters::reset(&self.maps, self.cpus, slot).context("cannot reset the counters")?;
        counters::set_interface(&self.maps, slot, name).context("cannot name the counters")?;
        Ok(slot)
    }

    fn find_slot(&self, name: &str) -> anyhow::Result<Option<u32>> {
        for slot in 0..MAX_INTERFACES {
            if counters::interface(&self.maps, slot).context("cannot read the interfaces")? == name {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
}

/// What was put on an interface.
fn attached(job: &Job, ifindex: u32, program: &Program) -> Attached {
    let Program { frags, id, .. } = program;
    let interface = job.interface.name.clone();
    Attached { interface, ifindex, mode: job.mode, frags: *frags, program_id: *id, superseded: false }
}

/// Moves a pin at once, in the place of what is pinned there. The link itself does not notice.
fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename the link {} to {}", from.display(), to.display()))
}

/// Removes one of several pins of a link, or that of one that was detached.
fn remove_pin(path: &Path) -> anyhow::Result<()> {
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn links_in(set: &Path) -> anyhow::Result<Vec<PinnedLink>> {
    Ok(links::look_at(pins::links(set)?))
}

/// The modes that may be tried, in order.
fn modes(asked: Mode) -> &'static [AttachMode] {
    match asked {
        Mode::Native => &[AttachMode::Native],
        Mode::Generic => &[AttachMode::Generic],
        Mode::Auto => &[AttachMode::Native, AttachMode::Generic],
    }
}

/// Whether a link in this mode is what is asked for.
fn fits(asked: Mode, mode: AttachMode) -> bool {
    match asked {
        Mode::Native => mode == AttachMode::Native,
        Mode::Generic => mode == AttachMode::Generic,
        Mode::Auto => true,
    }
}

fn flag(mode: AttachMode) -> u32 {
    match mode {
        AttachMode::Native => bpf::FLAG_NATIVE,
        AttachMode::Generic => bpf::FLAG_GENERIC,
    }
}

/// What to do when the kernel or the driver refuses a program.
fn hint(error: &io::Error, mode: AttachMode) -> &'static str {
    match (error.raw_os_error(), mode) {
        (Some(libc::EBUSY | libc::EEXIST), _) => {
            "another XDP program was attached just now; see: ip link show, bpftool net"
        }
        (Some(libc::ENOMEM), AttachMode::Native) => {
            "the driver has no memory or queues left for XDP; reduce its queues: ethtool -L"
        }
        (Some(libc::ERANGE | libc::EINVAL), AttachMode::Native) => {
            "the driver refuses; often the MTU is too large for XDP or LRO is on (ethtool -K … lro off); or set mode = \
             \"auto\""
        }
        (Some(libc::EOPNOTSUPP), AttachMode::Native) => {
            "the driver has no XDP or not with these offloads; set mode = \"auto\" or \"generic\""
        }
        (Some(libc::EPERM | libc::EACCES), _) => "limiterd needs root, or CAP_NET_ADMIN and CAP_BPF",
        (Some(libc::ENODEV), _) => "the interface is gone",
        _ => "see the kernel's log: dmesg",
    }
}
