// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A program for another AArch64 implementation: for each case it loads all registers, executes the instruction, and
//! records all registers; in the end it writes the records to its standard output.
//!
//! The program is a bare ELF file of one segment, made here without an assembler. X26 becomes 1 when the instruction
//! raised SIGILL (the handler steps over it); X27 and X28 point to the records and to the inputs, X30 is the link.

use super::machine::TestMachine;

/// Where the segment is loaded.
const BASE: u64 = 0x1000_0000;
/// Bytes of one input and of one record without memory.
const BLOCK: u64 = 768;
/// General registers that take part: X0-X25.
pub const GENERAL: usize = 26;
/// Bytes of memory that loads and stores may use, recorded with every case if there is memory at all.
pub const SCRATCH: u64 = 1024;
/// Length of the code that runs around a case.
const CASE: u64 = 12;
/// Offsets in the block, after 32 vector and 26 general registers.
const CONTROL: u64 = 720;
const STATUS: u64 = 728;
const FLAGS: u64 = 736;

/// Addresses in the program, which depend only on the number of cases.
pub struct Layout {
    cases: u64,
    memory: bool,
}

impl Layout {
    pub fn new(cases: usize, memory: bool) -> Self {
        Self { cases: cases as u64, memory }
    }

    /// The window of loads and stores.
    pub fn scratch(&self) -> u64 {
        BASE + 4096
    }

    fn code(&self) -> u64 {
        self.scratch() + SCRATCH
    }

    /// Address of the instruction of a case.
    pub fn instruction(&self, case: usize) -> u64 {
        self.code() + case as u64 * CASE + 4
    }

    fn tail(&self) -> u64 {
        self.code() + self.cases * CASE
    }

    fn inputs(&self) -> u64 {
        (self.tail() + 4096).next_multiple_of(4096)
    }

    fn records(&self) -> u64 {
        self.inputs() + self.cases * BLOCK
    }

    fn record_len(&self) -> u64 {
        BLOCK + if self.memory { SCRATCH } else { 0 }
    }
}

/// What the other implementation left behind.
pub struct Record {
    pub undefined: bool,
    pub state: TestMachine,
}

/// Instruction words under construction.
#[derive(Default)]
struct Code(Vec<u32>);

impl Code {
    fn put(&mut self, word: u32) {
        self.0.push(word);
    }

    /// A 64-bit constant below 2^48.
    fn constant(&mut self, register: u32, value: u64) {
        for part in 0..3 {
            let half = (value >> (16 * part)) as u32 & 0xffff;
            let opcode = if part == 0 { 0xd280_0000 } else { 0xf280_0000 };
            self.put(opcode | (part as u32) << 21 | half << 5 | register);
        }
    }

    fn vector_pairs(&mut self, opcode: u32, base: u32) {
        for pair in 0..16 {
            self.put(opcode | (2 * pair) << 15 | (2 * pair + 1) << 10 | base << 5 | (2 * pair));
        }
    }

    fn general(&mut self, opcode: u32, register: u32, base: u32, offset: u64) {
        self.put(opcode | (offset as u32 / 8) << 10 | base << 5 | register);
    }

    fn advance(&mut self, register: u32, by: u64) {
        self.put(0x9100_0000 | (by as u32) << 10 | register << 5 | register);
    }

    fn return_from_call(&mut self) {
        self.put(0xd65f_03c0);
    }
}

const LOAD: u32 = 0xf940_0000;
const STORE: u32 = 0xf900_0000;
const LOAD_VECTORS: u32 = 0xad40_0000;
const STORE_VECTORS: u32 = 0xad00_0000;
const WRITE_SYSTEM: u32 = 0xd51b_0000;
const READ_SYSTEM: u32 = 0xd53b_0000;
const NZCV: u32 = 0x4200;
const FPCR: u32 = 0x4400;
const FPSR: u32 = 0x4420;
const SVC: u32 = 0xd400_0001;

/// Loads every register of a case from X28.
fn enter() -> Code {
    let mut code = Code::default();
    code.vector_pairs(LOAD_VECTORS, 28);
    for (offset, register) in [(CONTROL, FPCR), (STATUS, FPSR), (FLAGS, NZCV)] {
        code.general(LOAD, 26, 28, offset);
        code.put(WRITE_SYSTEM | register | 26);
    }
    for register in 0..GENERAL as u32 {
        code.general(LOAD, register, 28, 512 + 8 * u64::from(register));
    }
    code.constant(26, 0);
    code.advance(28, BLOCK);
    code.return_from_call();
    code
}

/// Records every register of a case at X27.
fn leave(layout: &Layout) -> Code {
    let mut code = Code::default();
    code.vector_pairs(STORE_VECTORS, 27);
    for register in 0..GENERAL as u32 {
        code.general(STORE, register, 27, 512 + 8 * u64::from(register));
    }
    code.general(STORE, 26, 27, CONTROL);
    for (offset, register) in [(STATUS, FPSR), (FLAGS, NZCV)] {
        code.put(READ_SYSTEM | register | 26);
        code.general(STORE, 26, 27, offset);
    }
    code.advance(27, BLOCK);
    if layout.memory {
        code.constant(0, layout.scratch());
        for _ in 0..SCRATCH / 512 {
            code.vector_pairs(LOAD_VECTORS, 0);
            code.vector_pairs(STORE_VECTORS, 27);
            code.advance(0, 512);
            code.advance(27, 512);
        }
    }
    code.return_from_call();
    code
}

/// Writes the records and ends the program.
fn finish(layout: &Layout) -> Code {
    let mut code = Code::default();
    code.constant(1, layout.records());
    code.constant(2, layout.cases * layout.record_len());
    code.constant(0, 1);
    code.constant(8, 64);
    code.put(SVC); // write(1, X1, X2)
    code.put(0x8b00_0021); // add x1, x1, x0
    code.put(0xcb00_0042); // sub x2, x2, x0
    code.put(0xb5ff_ff22); // cbnz x2, to the constant of X0 above
    code.constant(0, 0);
    code.constant(8, 93);
    code.put(SVC);
    code
}

/// The SIGILL handler: X26 := 1 and PC += 4 in the interrupted context.
fn handler() -> Code {
    const CONTEXT_REGISTERS: u64 = 184;
    let mut code = Code::default();
    code.constant(9, 1);
    code.general(STORE, 9, 2, CONTEXT_REGISTERS + 26 * 8);
    code.general(LOAD, 9, 2, CONTEXT_REGISTERS + 32 * 8);
    code.advance(9, 4);
    code.general(STORE, 9, 2, CONTEXT_REGISTERS + 32 * 8);
    code.return_from_call();
    code
}

/// Installs the handler and sets the pointers, then goes to the first case.
fn start(layout: &Layout, handler: u64, action: u64) -> Code {
    let mut code = Code::default();
    code.constant(9, handler);
    code.constant(1, action);
    code.general(STORE, 9, 1, 0);
    code.constant(9, 4); // SA_SIGINFO
    code.general(STORE, 9, 1, 8);
    code.constant(0, 4); // SIGILL
    code.constant(2, 0);
    code.constant(3, 8);
    code.constant(8, 134); // rt_sigaction
    code.put(SVC);
    code.constant(28, layout.inputs());
    code.constant(27, layout.records());
    code.constant(9, layout.code());
    code.put(0xd61f_0120); // br x9
    code
}

/// The ELF file that runs `words[i]` on `inputs[i]`. The memory window starts out as that of the first input.
pub fn build(layout: &Layout, words: &[u32], inputs: &[TestMachine]) -> Vec<u8> {
    let mut image = vec![0u8; (layout.records() - BASE) as usize];
    let place = |image: &mut Vec<u8>, at: u64, code: &Code| {
        for (index, word) in code.0.iter().enumerate() {
            let at = (at - BASE) as usize + 4 * index;
            image[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
    };
    let (begin, action) = (BASE + 256, BASE + 3072);
    let handler_at = BASE + 1024;
    place(&mut image, begin, &start(layout, handler_at, action));
    place(&mut image, handler_at, &handler());
    let tail = finish(layout);
    let enter_at = layout.tail() + 4 * tail.0.len() as u64;
    let enter = enter();
    let leave_at = enter_at + 4 * enter.0.len() as u64;
    place(&mut image, layout.tail(), &tail);
    place(&mut image, enter_at, &enter);
    place(&mut image, leave_at, &leave(layout));
    for (case, word) in words.iter().enumerate() {
        let at = layout.instruction(case);
        let call = |from: u64, to: u64| 0x9400_0000 | (to.wrapping_sub(from) as u32 >> 2 & 0x3ff_ffff);
        place(&mut image, at - 4, &Code(vec![call(at - 4, enter_at), *word, call(at + 4, leave_at)]));
    }
    for (case, input) in inputs.iter().enumerate() {
        let mut block = Vec::with_capacity(BLOCK as usize);
        block.extend(input.v.iter().flat_map(|v| v.to_le_bytes()));
        block.extend(input.x[..GENERAL].iter().flat_map(|x| x.to_le_bytes()));
        block.extend(u64::from(input.fpcr).to_le_bytes());
        block.extend(u64::from(input.fpsr).to_le_bytes());
        block.extend((u64::from(input.nzcv) << 28).to_le_bytes());
        let at = (layout.inputs() - BASE) as usize + case * BLOCK as usize;
        image[at..at + block.len()].copy_from_slice(&block);
    }
    if layout.memory {
        let at = (layout.scratch() - BASE) as usize;
        image[at..at + SCRATCH as usize].copy_from_slice(&inputs[0].memory);
    }
    let total = image.len() as u64 + layout.cases * layout.record_len();
    let header = elf_header(begin, image.len() as u64, total);
    image[..header.len()].copy_from_slice(&header);
    image
}

/// File and program header: one readable, writable, executable segment that holds the whole file.
fn elf_header(entry: u64, file_len: u64, memory_len: u64) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    let half = |header: &mut Vec<u8>, value: u16| header.extend(value.to_le_bytes());
    let word = |header: &mut Vec<u8>, value: u32| header.extend(value.to_le_bytes());
    let long = |header: &mut Vec<u8>, value: u64| header.extend(value.to_le_bytes());
    half(&mut header, 2); // executable
    half(&mut header, 183); // AArch64
    word(&mut header, 1);
    long(&mut header, entry);
    long(&mut header, 64); // program headers
    long(&mut header, 0);
    word(&mut header, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut header, value);
    }
    word(&mut header, 1); // loadable
    word(&mut header, 7); // read, write, execute
    for value in [0, BASE, BASE, file_len, memory_len, 4096] {
        long(&mut header, value);
    }
    header
}

/// Reads the records that the program wrote.
pub fn records(layout: &Layout, output: &[u8]) -> Vec<Record> {
    let long = |block: &[u8], at: u64| {
        let at = at as usize;
        u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"))
    };
    let record = |block: &[u8]| {
        let mut state = TestMachine::default();
        for (at, v) in state.v.iter_mut().enumerate() {
            *v = u128::from_le_bytes(block[16 * at..16 * at + 16].try_into().expect("sixteen bytes"));
        }
        for (at, x) in state.x[..GENERAL].iter_mut().enumerate() {
            *x = long(block, 512 + 8 * at as u64);
        }
        state.fpsr = long(block, STATUS) as u32;
        state.nzcv = (long(block, FLAGS) >> 28) as u8;
        state.memory = block[BLOCK as usize..].to_vec();
        Record { undefined: long(block, CONTROL) != 0, state }
    };
    output.chunks_exact(layout.record_len() as usize).map(record).collect()
}
