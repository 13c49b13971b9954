//! The signal that an unknown instruction raises, and what is done about it.
#![allow(unsafe_code, reason = "a signal handler reads and writes the memory and registers of the thread it stopped")]

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::sync::OnceLock;

use crate::Means;
use crate::decode::{Address, Instruction, decode};
use crate::tiles::{Fault, Tiles};

thread_local! {
    /// No destructor and a constant: it is there at the first touch, so a signal handler may touch it.
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::RELEASED) };
}

/// As [`crate::install`].
pub(crate) fn install() -> Means {
    static MEANS: OnceLock<Means> = OnceLock::new();
    *MEANS.get_or_init(|| {
        if hardware() {
            return Means::Hardware;
        }
        // SAFETY: the structure is plain data, for which zeros are a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        // On the thread's own stack: the one for stack overflows is too small for a frame with AVX-512 in it.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        // SAFETY: the action is whole, and the handler keeps to what a handler may do.
        let refused = unsafe { libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()) };
        assert_eq!(refused, 0, "the system refuses a handler for unknown instructions");
        Means::Emulated
    })
}

/// Whether the processor has tiles of bf16 and bytes, and the system grants them.
fn hardware() -> bool {
    const TILE_STATE: u64 = 3 << 17;
    const REQUEST_PERMISSION: c_int = 0x1023;
    const TILE_DATA: c_int = 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx >> 27 & 1 == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if [22, 24, 25].iter().any(|bit| features >> bit & 1 == 0) {
        return false;
    }
    // SAFETY: cpuid says that the system has enabled the instruction.
    if unsafe { enabled_state() } & TILE_STATE != TILE_STATE {
        return false;
    }
    // SAFETY: the call takes two numbers and touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 }
}

/// The parts of the processor's state that the system saves.
///
/// # Safety
/// The system has enabled `xgetbv`.
#[target_feature(enable = "xsave")]
unsafe fn enabled_state() -> u64 {
    // SAFETY: as the caller vouches.
    unsafe { _xgetbv(0) }
}

/// Where the registers lie in the frame of a signal, by their numbers in an instruction.
const REGISTERS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Runs the instruction that the thread stopped at, or lets the process die of it. Allocates nothing, locks nothing.
extern "C" fn handle(signal: c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the frame of the thread that it stopped, which nobody else touches meanwhile. The bytes
    // at the instruction pointer are an instruction, of which decode() reads no byte past the end.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let start = registers[libc::REG_RIP as usize] as *const u8;
        let mut at = start;
        let read = || {
            let byte = *at;
            at = at.wrapping_add(1);
            byte
        };
        let Some((instruction, length)) = decode(read) else {
            // Not ours: without a handler the thread meets it again, and dies.
            libc::signal(signal, libc::SIG_DFL);
            return;
        };
        let next = start.wrapping_add(length);
        if let Err(fault) = TILES.with(|tiles| run(&mut *tiles.get(), &instruction, registers, next)) {
            refuse(&instruction, fault);
        }
        registers[libc::REG_RIP as usize] = next as i64;
    }
}

/// Does what an instruction says.
///
/// # Safety
/// Its memory operand is readable or writable, as the instruction needs it.
unsafe fn run(
    tiles: &mut Tiles,
    instruction: &Instruction,
    registers: &[libc::greg_t],
    next: *const u8,
) -> Result<(), Fault> {
    let register = |number: usize| registers[REGISTERS[number] as usize] as usize;
    let start = |at: &Address| {
        let base = if at.relative { next as usize } else { at.base.map_or(0, register) };
        base.wrapping_add_signed(at.displacement as isize)
    };
    let index = |at: &Address| at.index.map_or(0, |(number, shift)| register(number) << shift);
    // SAFETY: the caller vouches for the operands.
    unsafe {
        match instruction {
            Instruction::LoadConfiguration(at) => {
                let from = start(at).wrapping_add(index(at)) as *const [u8; 64];
                tiles.configure(&from.read_unaligned())
            }
            Instruction::StoreConfiguration(at) => {
                let to = start(at).wrapping_add(index(at)) as *mut [u8; 64];
                to.write_unaligned(tiles.configuration());
                Ok(())
            }
            Instruction::Release => {
                tiles.release();
                Ok(())
            }
            Instruction::Zero(tile) => tiles.zero(*tile),
            Instruction::Load(tile, at) => tiles.load(*tile, |row, bytes| {
                let from = start(at).wrapping_add(row.wrapping_mul(index(at))) as *const u8;
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
            }),
            Instruction::Store(at, tile) => tiles.store(*tile, |row, bytes| {
                let to = start(at).wrapping_add(row.wrapping_mul(index(at))) as *mut u8;
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }),
            Instruction::Multiply(kind, c, a, b) => tiles.multiply(*kind, *c, *a, *b),
        }
    }
}

/// Says what hardware would have raised, and ends the process.
fn refuse(instruction: &Instruction, fault: Fault) -> ! {
    let [exception, why] = fault.words();
    for part in ["emulated ", instruction.name(), " raises ", exception, ": ", why, "\n"] {
        // SAFETY: the bytes are a live string; a write to stderr that fails is no loss.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: it is allowed in a signal handler.
    unsafe { libc::abort() }
}
