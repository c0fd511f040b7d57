//! A program of `bench/ebpf`, loaded, and perhaps on an interface.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::maps::Map;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use limiter_tests::Namespace;

/// It goes, also from its interface, when it is dropped.
#[derive(Debug)]
pub(super) struct Program {
    ebpf: Ebpf,
    name: &'static str,
    fd: OwnedFd,
}

impl Program {
    /// Loads the program called `name` in `object`, with these constants and entries in maps.
    pub(super) fn load(
        object: &[u8],
        name: &'static str,
        constants: &[(&'static str, u64)],
        entries: &[(&'static str, u32)],
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (map, entries) in entries {
            loader.map_max_entries(map, *entries);
        }
        for (constant, value) in constants {
            loader.override_global(constant, value, true);
        }
        let mut ebpf = loader.load(object).with_context(|| format!("cannot prepare {name}"))?;
        let program = xdp(&mut ebpf, name)?;
        program.load().with_context(|| format!("the kernel refused {name}"))?;
        let fd = program.fd().with_context(|| format!("program {name}"))?.as_fd();
        let fd = fd.try_clone_to_owned().context("cannot keep a program")?;
        Ok(Self { ebpf, name, fd })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// One of its maps, which is an array.
    pub(super) fn map(&self, name: &str) -> Result<BorrowedFd<'_>> {
        match self.ebpf.map(name) {
            Some(Map::Array(map)) => Ok(map.fd().as_fd()),
            map => bail!("{} has no array {name}, but {map:?}", self.name),
        }
    }

    /// Puts it on an interface of `namespace`, in the driver.
    pub(super) fn attach(&mut self, namespace: &Namespace, interface: &str) -> Result<()> {
        let (ebpf, name) = (&mut self.ebpf, self.name);
        namespace.enter(|| {
            let attached = xdp(ebpf, name)?.attach(interface, XdpMode::Driver);
            attached.with_context(|| format!("cannot put {name} on {interface}"))?;
            Ok(())
        })
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))?;
    program.try_into().with_context(|| format!("program {name}"))
}
