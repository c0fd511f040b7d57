//! The interpreter on programs assembled by hand.

use super::{
    Call, Helper, Instruction, Kind, Machine, Map, Run, arithmetic,
    instruction::{
        ADD, ALU, ALU64, AND, ARSH, ATOMIC, CALL, COMPARE_EXCHANGE, DIV, END, EXCHANGE, EXIT, FETCH, JA, JEQ,
        JGE, JGT, JLE, JLT, JMP, JMP32, JNE, JSET, JSGE, JSGT, JSLE, JSLT, LD, LDX, LSH, MAP, MAP_VALUE,
        MEMORY, MEMORY_SIGNED, MOD, MOV, MUL, NEG, OR, REGISTER, RSH, ST, STX, SUB, XOR,
    },
};

// Widths of loads and stores.
const W: u8 = 0x00;
const H: u8 = 0x08;
const B: u8 = 0x10;
const DW: u8 = 0x18;

const NOW: u64 = 0x1234_5678_9abc_def0;

fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, destination, source, offset, immediate }
}

fn set(register: u8, number: i32) -> Instruction {
    op(ALU64 | MOV, register, 0, 0, number)
}

fn copy(to: u8, from: u8) -> Instruction {
    op(ALU64 | MOV | REGISTER, to, from, 0, 0)
}

fn load(width: u8, to: u8, base: u8, offset: i16) -> Instruction {
    op(LDX | MEMORY | width, to, base, offset, 0)
}

fn store(width: u8, base: u8, offset: i16, from: u8) -> Instruction {
    op(STX | MEMORY | width, base, from, offset, 0)
}

fn wide(to: u8, kind: u8, lower: i32, upper: i32) -> [Instruction; 2] {
    [op(LD | DW, to, kind, 0, lower), op(0, 0, 0, 0, upper)]
}

fn helper(number: i32) -> Instruction {
    op(JMP | CALL, 0, 0, 0, number)
}

fn call(distance: i32) -> Instruction {
    op(JMP | CALL, 0, 1, 0, distance)
}

const END_OF_PROGRAM: Instruction =
    Instruction { code: JMP | EXIT, destination: 0, source: 0, offset: 0, immediate: 0 };

/// Looks up the number in r2, and returns the first word of the value or -1.
fn lookup(map: i32) -> Vec<Instruction> {
    let mut program = vec![store(W, 10, -4, 2), copy(2, 10), op(ALU64 | ADD, 2, 0, 0, -4)];
    program.extend(wide(1, MAP, map, 0));
    program.extend([helper(1), op(JMP | JEQ, 0, 0, 2, 0), load(DW, 0, 0, 0), END_OF_PROGRAM]);
    program.extend([set(0, -1), END_OF_PROGRAM]);
    program
}

fn maps() -> Vec<Map> {
    let map = |name: &str, kind, value_size, values: Vec<u8>| Map {
        name: name.to_owned(),
        kind,
        value_size,
        values,
    };
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    vec![
        map("array", Kind::Array, 8, words(&[10, 11, 12])),
        map("counters", Kind::PerCpuArray, 16, words(&[20, 0, 21, 0])),
        map("globals", Kind::Globals, 16, words(&[30, 31])),
    ]
}

fn machine(program: &[Instruction]) -> Machine {
    Machine::new(program.to_vec(), [(0, "start".to_owned())], maps(), NOW)
}

fn run(program: &[Instruction]) -> Run {
    machine(program).run(b"a frame").unwrap()
}

fn result(program: &[Instruction]) -> u64 {
    run(program).result
}

/// All of what goes wrong, in one line.
fn error(program: &[Instruction]) -> String {
    format!("{:#}", machine(program).run(b"a frame").unwrap_err())
}

#[test]
fn arithmetic_in_both_widths() {
    let check = |operation: u8, offset: i16, a: u64, b: u64, in_64: u64, in_32: u64| {
        for (class, expected) in [(ALU64, in_64), (ALU, in_32)] {
            let instruction = op(class | operation | REGISTER, 0, 1, offset, 0);
            assert_eq!(arithmetic::calculate(instruction, a, b), Some(expected), "{instruction}");
        }
    };
    let minus = |number: u64| number.wrapping_neg();
    let low = |number: u64| number & 0xffff_ffff;
    check(ADD, 0, u64::MAX, 2, 1, 1);
    check(ADD, 0, 0xffff_ffff, 1, 0x1_0000_0000, 0);
    check(SUB, 0, 1, 2, minus(1), low(minus(1)));
    check(MUL, 0, 1 << 31, 4, 1 << 33, 0);
    check(DIV, 0, minus(6), 2, minus(6) / 2, low(minus(6)) / 2);
    check(DIV, 0, 6, 0, 0, 0);
    check(DIV, 1, minus(6), 2, minus(3), low(minus(3)));
    check(DIV, 1, 6, 0, 0, 0);
    check(MOD, 0, 7, 4, 3, 3);
    check(MOD, 0, 7, 0, 7, 7);
    check(MOD, 1, minus(7), 4, minus(3), low(minus(3)));
    check(OR, 0, 5, 2, 7, 7);
    check(AND, 0, 7, minus(2), 6, 6);
    check(XOR, 0, 7, 2, 5, 5);
    check(LSH, 0, 1, 33, 1 << 33, 2);
    check(RSH, 0, 1 << 33, 33, 1, 0);
    check(ARSH, 0, minus(8), 1, minus(4), low(minus(4)));
    check(NEG, 0, 5, 0, minus(5), low(minus(5)));
    check(MOV, 0, 0, 0x1_8000_0000, 0x1_8000_0000, 0x8000_0000);
    check(MOV, 8, 0, 0x1ff, minus(1), low(minus(1)));
    check(MOV, 16, 0, 0x1_7fff, 0x7fff, 0x7fff);
}

#[test]
fn byte_orders() {
    let check = |code: u8, bits: i32, expected: u64| {
        let instruction = op(code | END, 0, 0, 0, bits);
        assert_eq!(
            arithmetic::calculate(instruction, 0x0102_0304_0506_0708, 0),
            Some(expected),
            "{instruction}"
        );
    };
    // To big-endian, to little-endian, and the other way around.
    check(ALU | REGISTER, 16, 0x0807);
    check(ALU | REGISTER, 32, 0x0807_0605);
    check(ALU | REGISTER, 64, 0x0807_0605_0403_0201);
    check(ALU, 16, 0x0708);
    check(ALU, 64, 0x0102_0304_0506_0708);
    check(ALU64, 32, 0x0807_0605);
}

#[test]
fn jumps_in_both_widths() {
    let check = |operation: u8, a: u64, b: u64, in_64: bool, in_32: bool| {
        for (class, expected) in [(JMP, in_64), (JMP32, in_32)] {
            let instruction = op(class | operation | REGISTER, 0, 1, 0, 0);
            assert_eq!(arithmetic::compare(instruction, a, b), Some(expected), "{instruction}");
        }
    };
    // 2^32 is more than 1, but nothing in 32 bits; 2^31 is negative there.
    let (above, half) = (1 << 32, 1 << 31);
    check(JEQ, above, 0, false, true);
    check(JNE, above, 0, true, false);
    check(JGT, above, 1, true, false);
    check(JGE, above, 1, true, false);
    check(JLT, above, 1, false, true);
    check(JLE, above, 1, false, true);
    check(JSET, above | 1, above, true, false);
    check(JSGT, half, 0, true, false);
    check(JSGE, half, 0, true, false);
    check(JSLT, half, 0, false, true);
    check(JSLE, half, 0, false, true);
}

#[test]
fn a_jump_skips_slots() {
    let loop_of_three = [
        set(0, 0),
        op(ALU64 | ADD, 0, 0, 0, 1),
        op(JMP | JLT, 0, 0, -2, 3),
        op(JMP | JA, 0, 0, 1, 0),
        set(0, 99),
        END_OF_PROGRAM,
    ];
    let run = run(&loop_of_three);
    assert_eq!(run.result, 3);
    assert_eq!(run.steps, [0, 1, 2, 1, 2, 1, 2, 3, 5]);
    let far = [set(0, 5), op(JMP32 | JA, 0, 0, 0, 1), set(0, 99), END_OF_PROGRAM];
    assert_eq!(result(&far), 5);
}

#[test]
fn loads_and_stores_of_all_widths() {
    let check = |width: u8, mode: u8, expected: u64| {
        let mut program = wide(1, 0, -2, -2).to_vec();
        program.extend([
            op(ST | MEMORY | DW, 10, 0, -8, 0),
            store(width, 10, -8, 1),
            op(LDX | mode | width, 0, 10, -8, 0),
            END_OF_PROGRAM,
        ]);
        assert_eq!(result(&program), expected, "{}", program[3]);
    };
    check(B, MEMORY, 0xfe);
    check(H, MEMORY, 0xfffe);
    check(W, MEMORY, 0xffff_fffe);
    check(DW, MEMORY, 0xffff_fffe_ffff_fffe);
    for width in [B, H, W] {
        check(width, MEMORY_SIGNED, 2_u64.wrapping_neg());
    }
    // A number of an instruction is signed, and as wide as the store.
    assert_eq!(
        result(&[op(ST | MEMORY | DW, 10, 0, -8, -3), load(DW, 0, 10, -8), END_OF_PROGRAM]),
        3_u64.wrapping_neg()
    );
}

#[test]
fn a_frame_is_what_the_context_points_to() {
    let length = [load(W, 2, 1, 0), load(W, 0, 1, 4), op(ALU64 | SUB | REGISTER, 0, 2, 0, 0), END_OF_PROGRAM];
    assert_eq!(result(&length), 7);
    let byte = |offset| [load(W, 2, 1, 0), load(B, 0, 2, offset), END_OF_PROGRAM];
    assert_eq!(result(&byte(6)), u64::from(b'e'));
    assert!(error(&byte(7)).contains("1 bytes at the frame[0] + 7, but there are 1 of 7 bytes"));
    assert!(error(&byte(-1)).contains("1 bytes at the frame - 1"));
    assert!(error(&[load(DW, 0, 1, 0), END_OF_PROGRAM]).contains("no field of 8 bytes at 0"));
    assert!(error(&[load(W, 2, 1, 0), store(B, 2, 0, 1), END_OF_PROGRAM]).contains("read-only"));
}

#[test]
fn accesses_outside_are_errors_that_say_where() {
    let text = error(&[set(3, 0), load(W, 0, 3, 16), END_OF_PROGRAM]);
    assert_eq!(text, "instruction 1, start+1: r0 = *u32 (r3 + 16): 0x10 is not an address");
    assert!(
        error(&[load(DW, 0, 10, -4), END_OF_PROGRAM]).contains("8 bytes at the stack of function[0] + 508")
    );
    assert!(error(&[load(DW, 0, 10, -520), END_OF_PROGRAM]).contains("8 bytes at the stack of function - 8"));
}

#[test]
fn lookups() {
    let check = |map: i32, index: i32, expected: i64, call: Call| {
        let mut program = vec![set(2, index)];
        program.extend(lookup(map));
        let run = run(&program);
        assert_eq!(run.result.cast_signed(), expected);
        assert_eq!(run.calls, [call]);
    };
    check(0, 0, 10, Call::Lookup { kind: Kind::Array, found: true });
    check(0, 2, 12, Call::Lookup { kind: Kind::Array, found: true });
    check(0, 3, -1, Call::Lookup { kind: Kind::Array, found: false });
    check(1, 1, 21, Call::Lookup { kind: Kind::PerCpuArray, found: true });
    let mut program = vec![set(2, 0)];
    program.extend(lookup(2));
    assert!(error(&program).contains("globals is no array"));
}

#[test]
fn a_value_ends_where_the_next_begins() {
    let mut program = vec![set(2, 0)];
    program.extend(lookup(0));
    program[8] = load(DW, 0, 0, 8);
    assert!(error(&program).contains("8 bytes at array[0] + 8, but there are 3 of 8 bytes"));
}

#[test]
fn maps_keep_what_was_written() {
    let mut program = vec![set(2, 1)];
    program.extend(lookup(1));
    // In place of returning the word: adds 1 to it.
    program.splice(8.., [set(1, 1), op(STX | ATOMIC | DW, 0, 1, 0, 0), set(0, 0), END_OF_PROGRAM]);
    program[7].offset = 3;
    let mut machine = machine(&program);
    machine.run(b"").unwrap();
    machine.run(b"").unwrap();
    assert_eq!(machine.values("counters").unwrap()[16..24], 23_u64.to_le_bytes());
}

#[test]
fn globals_can_only_be_read() {
    let mut program = wide(1, MAP_VALUE, 2, 8).to_vec();
    program.extend([load(DW, 0, 1, 0), END_OF_PROGRAM]);
    let run = run(&program);
    // A wide load has two slots, and is one instruction.
    assert_eq!((run.result, run.steps), (31, vec![0, 2, 3]));
    program[2] = store(DW, 1, 0, 1);
    assert!(error(&program).contains("a write to globals"));
}

#[test]
fn atomic_operations() {
    let check = |operation: i32, width: u8, r0: i32, found: u64, left: u64| {
        let mut program = wide(2, 0, 7, 1).to_vec();
        program.extend([store(DW, 10, -8, 2), set(0, r0), set(1, 5)]);
        program.extend([op(STX | ATOMIC | width, 10, 1, -8, operation), load(DW, 3, 10, -8)]);
        let registers = |program: &[Instruction], register| {
            let mut program = program.to_vec();
            program.extend([copy(0, register), END_OF_PROGRAM]);
            result(&program)
        };
        let into = if operation == COMPARE_EXCHANGE { 0 } else { 1 };
        assert_eq!(registers(&program, into), found, "{operation:#x}: what was found");
        assert_eq!(registers(&program, 3), left, "{operation:#x}: what is there now");
    };
    let word = 0x1_0000_0007;
    check(0, DW, 0, 5, word + 5);
    check(FETCH, DW, 0, word, word + 5);
    check(FETCH, W, 0, 7, word + 5);
    check(0x40 | FETCH, DW, 0, word, word);
    check(0x50 | FETCH, DW, 0, word, 5);
    check(0xa0 | FETCH, DW, 0, word, 0x1_0000_0002);
    check(EXCHANGE, DW, 0, word, 5);
    check(COMPARE_EXCHANGE, DW, 7, word, word);
    check(COMPARE_EXCHANGE, W, 7, 7, 0x1_0000_0005);
    // Of r0, only as much counts as is compared.
    let program = [
        op(ST | MEMORY | W, 10, 0, -8, -7),
        set(0, -7),
        set(1, 5),
        op(STX | ATOMIC | W, 10, 1, -8, COMPARE_EXCHANGE),
        load(W, 0, 10, -8),
        END_OF_PROGRAM,
    ];
    assert_eq!(result(&program), 5);
    let crooked = [set(1, 0), op(STX | ATOMIC | W, 10, 1, -6, 0), END_OF_PROGRAM];
    assert!(error(&crooked).contains("not aligned"));
}

#[test]
fn functions_have_their_own_stack_and_leave_registers_alone() {
    let program = [
        set(6, 1),
        op(ST | MEMORY | DW, 10, 0, -8, 40),
        copy(1, 10),
        call(3),
        op(ALU64 | ADD | REGISTER, 0, 6, 0, 0),
        load(DW, 1, 10, -8),
        END_OF_PROGRAM,
        // Reads its caller's word, and spoils its own stack and r6.
        load(DW, 0, 1, -8),
        op(ST | MEMORY | DW, 10, 0, -8, 0),
        set(6, 100),
        END_OF_PROGRAM,
    ];
    let run = run(&program);
    assert_eq!(run.result, 41);
    assert_eq!(run.calls, [Call::Function(7)]);
    assert_eq!(run.steps, [0, 1, 2, 3, 7, 8, 9, 10, 4, 5, 6]);
}

#[test]
fn a_function_leaves_no_stack_behind() {
    let program = [call(2), load(DW, 0, 0, -8), END_OF_PROGRAM, copy(0, 10), END_OF_PROGRAM];
    assert!(error(&program).contains("8 bytes at the stack of function[1] + 504"));
}

#[test]
fn a_run_leaves_no_stack_behind() {
    let mut machine = machine(&[load(DW, 0, 10, -8), op(ST | MEMORY | DW, 10, 0, -8, 1), END_OF_PROGRAM]);
    machine.run(b"").unwrap();
    assert_eq!(machine.run(b"").unwrap().result, 0);
}

#[test]
fn what_has_no_end_is_an_error() {
    assert!(error(&[op(JMP | JA, 0, 0, -1, 0)]).contains("still running"));
    assert!(error(&[call(-1)]).contains("more than 8 functions"));
    assert!(error(&[set(0, 0)]).contains("ends without an exit"));
    assert!(error(&[op(JMP | JA, 0, 0, -2, 0)]).contains("before the program"));
}

#[test]
fn helpers() {
    let run = run(&[helper(125), END_OF_PROGRAM]);
    assert_eq!(run.result, NOW);
    assert_eq!(run.calls, [Call::Helper(Helper::Clock("bpf_ktime_get_boot_ns"))]);
    assert_eq!(result(&[helper(188), END_OF_PROGRAM]), 7);
    let bytes = |from: i32| {
        let arguments = [set(2, from), copy(3, 10), op(ALU64 | ADD, 3, 0, 0, -8), set(4, 4)];
        [&arguments[..], &[helper(189), op(JMP | JNE, 0, 0, 1, 0), load(W, 0, 10, -8), END_OF_PROGRAM]]
            .concat()
    };
    assert_eq!(result(&bytes(3)), u64::from(u32::from_le_bytes(*b"rame")));
    assert_eq!(result(&bytes(4)), 22_u64.wrapping_neg());
    assert!(
        error(&[helper(130), END_OF_PROGRAM]).contains("call 130: this helper of the kernel is not known")
    );
    // Nothing is left in the arguments.
    assert!(error(&[helper(5), load(W, 0, 1, 0), END_OF_PROGRAM]).contains("not an address"));
}
