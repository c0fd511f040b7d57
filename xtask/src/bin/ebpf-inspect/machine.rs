//! An interpreter of BPF instructions (RFC 9669), as far as XDP programs over arrays need them.
//!
//! It runs what the compiler made, before the kernel's verifier takes out what the settings rule out. Every access is
//! checked against what it points into. There is one CPU, and the clock stands still.

mod arithmetic;
mod instruction;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) use self::instruction::Instruction;
use self::{
    instruction::{
        ALU, ALU64, ATOMIC, CALL, CALL_FUNCTION, CALL_HELPER, COMPARE_EXCHANGE, EXCHANGE, EXIT, FETCH, JA,
        JMP, JMP32, LD, LDX, MAP, MAP_VALUE, MEMORY, MEMORY_SIGNED, ST, STX,
    },
    memory::{Id, Memory, Region},
};

/// Bytes of stack of each function, and functions in one another, as in the kernel.
const STACK: usize = 512;
const FRAMES: usize = 8;
/// More than any frame can take. The verifier would refuse a program without an end.
const MOST_STEPS: usize = 1_000_000;

/// The register that points behind the function's stack.
const FRAME_POINTER: usize = 10;

/// What a program asks the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Helper {
    MapLookup,
    Clock(&'static str),
    Processor,
    Jiffies,
    FrameLength,
    FrameBytes,
}

impl Helper {
    /// By its number in the kernel's `enum bpf_func_id`.
    const fn new(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::MapLookup,
            5 => Self::Clock("bpf_ktime_get_ns"),
            8 => Self::Processor,
            118 => Self::Jiffies,
            125 => Self::Clock("bpf_ktime_get_boot_ns"),
            160 => Self::Clock("bpf_ktime_get_coarse_ns"),
            188 => Self::FrameLength,
            189 => Self::FrameBytes,
            _ => return None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::MapLookup => "bpf_map_lookup_elem",
            Self::Clock(name) => name,
            Self::Processor => "bpf_get_smp_processor_id",
            Self::Jiffies => "bpf_jiffies64",
            Self::FrameLength => "bpf_xdp_get_buff_len",
            Self::FrameBytes => "bpf_xdp_load_bytes",
        }
    }
}

/// How a map is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Array,
    PerCpuArray,
    /// Read-only globals, which need no lookup.
    Globals,
    /// There is one, but a program that uses it cannot be run.
    Other,
}

/// A map, and what is in it.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) value_size: usize,
    /// All values, one after the other.
    pub(crate) values: Vec<u8>,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Of an array; `found` unless the index was too large.
    Lookup {
        kind: Kind,
        found: bool,
    },
    Helper(Helper),
    /// The one that begins at this slot.
    Function(usize),
}

/// What happened to one frame.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) result: u64,
    /// The slots of the executed instructions. A wide load is one instruction.
    pub(crate) steps: Vec<usize>,
    pub(crate) calls: Vec<Call>,
}

/// A program, and all that it can reach.
#[derive(Debug)]
pub(crate) struct Machine {
    program: Vec<Instruction>,
    symbols: BTreeMap<usize, String>,
    memory: Memory,
    maps: Vec<(Kind, Id)>,
    context: Id,
    frame: Id,
    stack: Id,
    now: u64,
}

/// Where a function returns to, and the registers that it must leave alone.
#[derive(Debug)]
struct Caller {
    next: usize,
    saved: [u64; 5],
}

impl Machine {
    /// `symbols` say where functions begin. Instructions name maps by their index in `maps`. The clock says `now`.
    pub(crate) fn new(
        program: Vec<Instruction>,
        symbols: impl IntoIterator<Item = (usize, String)>,
        maps: Vec<Map>,
        now: u64,
    ) -> Self {
        let mut memory = Memory::default();
        let piece = |name: &str, size, writable| Region {
            name: name.to_owned(),
            bytes: vec![0; size],
            value: size,
            writable,
        };
        // Its fields are worked out when they are read: see `context`.
        let context = memory.add(piece("the context", 24, false));
        let frame = memory.add(piece("the frame", 0, false));
        let stack = memory.add(Region { value: STACK, ..piece("the stack of function", 0, true) });
        let maps = maps.into_iter().map(|Map { name, kind, value_size, values }| {
            let writable = kind != Kind::Globals;
            (kind, memory.add(Region { name, bytes: values, value: value_size, writable }))
        });
        let maps = maps.collect();
        Self { program, symbols: symbols.into_iter().collect(), memory, maps, context, frame, stack, now }
    }

    /// All values of a map.
    pub(crate) fn values(&self, name: &str) -> Result<&[u8]> {
        let mut regions = self.maps.iter().map(|(_, id)| self.memory.region(*id));
        let region = regions.find(|region| region.name == name);
        Ok(&region.with_context(|| format!("no map {name}"))?.bytes)
    }

    /// Runs the program on one frame, from its first instruction on.
    pub(crate) fn run(&mut self, frame: &[u8]) -> Result<Run> {
        let region = self.memory.region_mut(self.frame);
        region.value = frame.len();
        region.bytes = frame.to_vec();
        let mut run = Run::default();
        let mut registers = [0; 11];
        registers[1] = self.memory.address(self.context, 0);
        registers[FRAME_POINTER] = self.push_stack(0);
        let mut callers = Vec::new();
        let mut next = Some(0);
        while let Some(at) = next {
            run.steps.push(at);
            next = self
                .step(at, &mut registers, &mut callers, &mut run)
                .with_context(|| format!("instruction {at}, {}", self.text(at)))?;
        }
        run.result = registers[0];
        Ok(run)
    }

    /// The instruction in a slot: its function, how far behind its beginning, and what it does.
    pub(crate) fn text(&self, at: usize) -> String {
        let Some(instruction) = self.program.get(at) else { return "behind the end".to_owned() };
        let place = match self.symbols.range(..=at).next_back() {
            Some((start, name)) => format!("{name}+{}", at - start),
            None => format!("+{at}"),
        };
        let text = match (instruction.class(), instruction.operation(), instruction.source) {
            (JMP, CALL, CALL_HELPER) => {
                Helper::new(instruction.immediate).map(|helper| helper.name().to_owned())
            }
            (JMP, CALL, CALL_FUNCTION) => {
                target(at, instruction.immediate).ok().and_then(|start| self.symbols.get(&start).cloned())
            }
            _ => None,
        };
        if let Some(callee) = text {
            return format!("{place}: call {callee}");
        }
        match (instruction.is_wide(), instruction.source, self.map(instruction.immediate)) {
            (true, MAP | MAP_VALUE, Ok((_, id))) => {
                let name = &self.memory.region(id).name;
                let offset = self.program.get(at + 1).map_or(0, |upper| upper.immediate);
                format!("{place}: r{} = {name}+{offset} ll", instruction.destination)
            }
            _ => format!("{place}: {instruction}"),
        }
    }

    /// What the function at this slot is called.
    pub(crate) fn function(&self, at: usize) -> String {
        self.symbols.get(&at).cloned().unwrap_or_else(|| format!("the function at {at}"))
    }

    fn map(&self, index: i32) -> Result<(Kind, Id)> {
        let index = usize::try_from(index).context("no map has this number")?;
        self.maps.get(index).copied().with_context(|| format!("there is no map {index}"))
    }

    /// Gives the function at this depth its stack; returns the end of it.
    fn push_stack(&mut self, depth: usize) -> u64 {
        let stack = self.memory.region_mut(self.stack);
        // What an earlier function at this depth has left there is gone.
        stack.bytes.truncate(depth * STACK);
        stack.bytes.resize((depth + 1) * STACK, 0);
        self.memory.address(self.stack, depth) + STACK as u64
    }

    /// Runs one instruction; returns the next one, if any.
    fn step(
        &mut self,
        at: usize,
        registers: &mut [u64; 11],
        callers: &mut Vec<Caller>,
        run: &mut Run,
    ) -> Result<Option<usize>> {
        ensure!(run.steps.len() <= MOST_STEPS, "still running after {MOST_STEPS} instructions");
        let instruction = *self.program.get(at).context("the program ends without an exit")?;
        let (to, from) = (usize::from(instruction.destination), usize::from(instruction.source));
        ensure!(to <= FRAME_POINTER && from <= FRAME_POINTER, "there are {} registers", registers.len());
        let operand =
            if instruction.has_source() { registers[from] } else { extended(instruction.immediate) };
        let address = |register: usize| registers[register].wrapping_add(extended(instruction.offset.into()));
        let width = instruction.width();
        match instruction.class() {
            LD if instruction.is_wide() => {
                registers[to] = self.wide(at, instruction)?;
                return Ok(Some(at + 2));
            }
            LDX => match instruction.mode() {
                MEMORY => registers[to] = self.load(address(from), width)?,
                MEMORY_SIGNED => {
                    registers[to] = arithmetic::sign_extended(self.load(address(from), width)?, width);
                }
                _ => bail!("not an instruction that is known here"),
            },
            ST if instruction.mode() == MEMORY => {
                self.memory.store(address(to), width, extended(instruction.immediate))?;
            }
            STX if instruction.mode() == MEMORY => {
                self.memory.store(address(to), width, registers[from])?;
            }
            STX if instruction.mode() == ATOMIC => self.atomic(instruction, address(to), registers)?,
            ALU | ALU64 => {
                let result = arithmetic::calculate(instruction, registers[to], operand);
                registers[to] = result.context("not an instruction that is known here")?;
            }
            JMP if instruction.operation() == CALL => {
                return self.call(at, instruction, registers, callers, run).map(Some);
            }
            JMP if instruction.operation() == EXIT => {
                let Some(caller) = callers.pop() else { return Ok(None) };
                registers[6..].copy_from_slice(&caller.saved);
                self.memory.region_mut(self.stack).bytes.truncate((callers.len() + 1) * STACK);
                return Ok(Some(caller.next));
            }
            JMP | JMP32 => {
                let far = instruction.class() == JMP32 && instruction.operation() == JA;
                let distance = if far { instruction.immediate } else { instruction.offset.into() };
                let taken = instruction.operation() == JA
                    || arithmetic::compare(instruction, registers[to], operand)
                        .context("not an instruction that is known here")?;
                if taken {
                    return target(at, distance).map(Some);
                }
            }
            _ => bail!("not an instruction that is known here"),
        }
        Ok(Some(at + 1))
    }

    /// The number or address that a wide load means.
    fn wide(&self, at: usize, instruction: Instruction) -> Result<u64> {
        let upper = self.program.get(at + 1).context("the second half is missing")?.immediate;
        let low = |number: i32| u64::from(number.cast_unsigned());
        Ok(match instruction.source {
            0 => low(instruction.immediate) | low(upper) << 32,
            MAP => self.memory.address(self.map(instruction.immediate)?.1, 0),
            MAP_VALUE => self.memory.address(self.map(instruction.immediate)?.1, 0) + low(upper),
            other => bail!("a wide load of kind {other} is not known here"),
        })
    }

    fn load(&self, address: u64, width: usize) -> Result<u64> {
        match self.memory.locate(address) {
            Some((id, offset)) if id == self.context => self.context(offset, width),
            _ => self.memory.load(address, width),
        }
    }

    /// A field of `struct xdp_md`: 32 bits on paper, but loads of `data`, `data_end` and `data_meta` yield pointers.
    fn context(&self, offset: i64, width: usize) -> Result<u64> {
        let start = self.memory.address(self.frame, 0);
        match (offset, width) {
            (0 | 8, 4) => Ok(start),
            (4, 4) => Ok(start + self.memory.region(self.frame).bytes.len() as u64),
            (12 | 16 | 20, 4) => Ok(0),
            _ => bail!("the context has no field of {width} bytes at {offset}"),
        }
    }

    fn atomic(&mut self, instruction: Instruction, address: u64, registers: &mut [u64; 11]) -> Result<()> {
        let width = instruction.width();
        ensure!(width >= 4, "no atomic operation has {width} bytes");
        ensure!(address.is_multiple_of(width as u64), "an atomic operation that is not aligned");
        let found = self.load(address, width)?;
        let mask = u64::MAX >> (64 - 8 * width);
        let source = &mut registers[usize::from(instruction.source)];
        let operand = *source;
        let new = match instruction.immediate & !FETCH {
            _ if instruction.immediate == EXCHANGE => operand,
            _ if instruction.immediate == COMPARE_EXCHANGE => {
                let expected = registers[0] & mask;
                registers[0] = found;
                if found != expected {
                    return Ok(());
                }
                return self.memory.store(address, width, operand);
            }
            0x00 => found.wrapping_add(operand),
            0x40 => found | operand,
            0x50 => found & operand,
            0xa0 => found ^ operand,
            _ => bail!("not an atomic operation that is known here"),
        };
        if instruction.immediate & FETCH != 0 {
            *source = found;
        }
        self.memory.store(address, width, new)
    }

    /// Does what a call says; returns where it goes on.
    fn call(
        &mut self,
        at: usize,
        instruction: Instruction,
        registers: &mut [u64; 11],
        callers: &mut Vec<Caller>,
        run: &mut Run,
    ) -> Result<usize> {
        if instruction.source == CALL_FUNCTION {
            ensure!(callers.len() + 1 < FRAMES, "more than {FRAMES} functions in one another");
            let start = target(at, instruction.immediate)?;
            run.calls.push(Call::Function(start));
            let [.., r6, r7, r8, r9, r10] = *registers;
            callers.push(Caller { next: at + 1, saved: [r6, r7, r8, r9, r10] });
            registers[FRAME_POINTER] = self.push_stack(callers.len());
            return Ok(start);
        }
        let helper = match instruction.source {
            CALL_HELPER => Helper::new(instruction.immediate),
            _ => None,
        };
        let helper = helper.context("this helper of the kernel is not known here")?;
        let [_, r1, r2, r3, r4, ..] = *registers;
        registers[0] = match helper {
            Helper::MapLookup => {
                let (kind, address) = self.look_up(r1, r2)?;
                run.calls.push(Call::Lookup { kind, found: address != 0 });
                address
            }
            Helper::Clock(_) => self.now,
            Helper::Processor => 0,
            // 250 a second, as most kernels are built.
            Helper::Jiffies => self.now / 4_000_000,
            Helper::FrameLength => self.memory.region(self.frame).bytes.len() as u64,
            Helper::FrameBytes => self.frame_bytes(r2, r3, r4)?,
        };
        if helper != Helper::MapLookup {
            run.calls.push(Call::Helper(helper));
        }
        // Nothing may rely on what a helper leaves in these.
        registers[1..=5].fill(0);
        Ok(at + 1)
    }

    /// The address of a value, or 0.
    fn look_up(&self, map: u64, key: u64) -> Result<(Kind, u64)> {
        let (kind, id) = match self.memory.locate(map) {
            Some((id, 0)) => self.maps.iter().copied().find(|(_, map)| *map == id),
            _ => None,
        }
        .context("the first argument is not a map")?;
        let region = self.memory.region(id);
        let index = usize::try_from(self.memory.load(key, 4).context("the key")?)?;
        match kind {
            Kind::Array | Kind::PerCpuArray if index < region.bytes.len() / region.value => {
                Ok((kind, self.memory.address(id, index)))
            }
            Kind::Array | Kind::PerCpuArray => Ok((kind, 0)),
            Kind::Globals | Kind::Other => bail!("{} is no array", region.name),
        }
    }

    /// 0, or an error number as the kernel has it.
    fn frame_bytes(&mut self, from: u64, to: u64, len: u64) -> Result<u64> {
        const INVALID: i64 = -22;
        let len = usize::try_from(len)?;
        let frame = &self.memory.region(self.frame).bytes;
        let bytes = usize::try_from(from)?.checked_add(len).and_then(|end| frame.get(end - len..end));
        let Some(bytes) = bytes.map(<[u8]>::to_vec) else { return Ok(INVALID.cast_unsigned()) };
        self.memory.bytes_mut(to, len)?.copy_from_slice(&bytes);
        Ok(0)
    }
}

/// A number of an instruction as a register has it.
fn extended(number: i32) -> u64 {
    i64::from(number).cast_unsigned()
}

/// Where a jump or call by `distance` leads: it counts from the next instruction.
fn target(at: usize, distance: i32) -> Result<usize> {
    let to = (at + 1).checked_add_signed(distance.try_into()?);
    to.context("a jump to before the program")
}
