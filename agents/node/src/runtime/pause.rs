//! The sandbox's image: one program that sleeps for ever, made here so that no registry is needed.
//!
//! The program is a static ELF file of a few instructions: it has the kernel reap its children (with a shared process
//! namespace it is everybody's parent), ends when asked to, and sleeps. As process 1 it would ignore SIGTERM without a handler,
//! and a stopping Docker would wait ten seconds for it.

/// ```text
///   0 mov eax, 13 (rt_sigaction); mov edi, 17 (SIGCHLD); lea rsi, [rip + ignore]; xor edx, edx; mov r10d, 8; syscall
///  27 the same with 15 (SIGTERM) and leave_action
///  54 mov eax, 34 (pause); syscall; jmp 54
///  63 xor edi, edi; mov eax, 231 (exit_group); syscall
///  72 ignore, 104 leave_action
/// ```
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0xb8, 13, 0, 0, 0, 0xbf, 17, 0, 0, 0, 0x48, 0x8d, 0x35, 55, 0, 0, 0, 0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0,
    0x0f, 0x05, //
    0xb8, 13, 0, 0, 0, 0xbf, 15, 0, 0, 0, 0x48, 0x8d, 0x35, 60, 0, 0, 0, 0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0,
    0x0f, 0x05, //
    0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7, //
    0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 0x05,
];
#[cfg(target_arch = "x86_64")]
const LEAVE: u64 = 63;
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// ```text
///   0 mov x8, 134 (rt_sigaction); mov x0, 17 (SIGCHLD); adr x1, ignore; mov x2, 0; mov x3, 8; svc 0
///  24 the same with 15 (SIGTERM) and leave_action
///  48 mov x8, 73 (ppoll); mov x0, 0; mov x1, 0; mov x2, 0; mov x3, 0; svc 0; b 48
///  76 mov x0, 0; mov x8, 94 (exit_group); svc 0
///  88 ignore, 120 leave_action
/// ```
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0xc8, 0x10, 0x80, 0xd2, 0x20, 0x02, 0x80, 0xd2, 0x81, 0x02, 0, 0x10, 2, 0, 0x80, 0xd2, 3, 1, 0x80, 0xd2,
    1, 0, 0, 0xd4, //
    0xc8, 0x10, 0x80, 0xd2, 0xe0, 0x01, 0x80, 0xd2, 0xc1, 0x02, 0, 0x10, 2, 0, 0x80, 0xd2, 3, 1, 0x80, 0xd2,
    1, 0, 0, 0xd4, //
    0x28, 0x09, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0x80, 0xd2, 2, 0, 0x80, 0xd2, 3, 0, 0x80, 0xd2, 1, 0, 0,
    0xd4, 0xfa, 0xff, 0xff, 0x17, //
    0, 0, 0x80, 0xd2, 0xc8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4,
];
#[cfg(target_arch = "aarch64")]
const LEAVE: u64 = 76;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// The kernel's `struct sigaction`s that the code names: handler, flags, restorer, mask.
fn actions() -> [u64; 8] {
    let leave = LOAD_ADDRESS + HEADER_BYTES + LEAVE;
    [SIG_IGN, 0, 0, 0, leave, SA_RESTORER, leave, 0]
}

const SIG_IGN: u64 = 1;
/// x86 insists on one, although the handler never returns.
const SA_RESTORER: u64 = 0x0400_0000;
const LOAD_ADDRESS: u64 = 0x40_0000;
const HEADER_BYTES: u64 = 64 + 56;

/// The ELF file: header, one loadable segment, code and its two constants.
fn program() -> Vec<u8> {
    let mut elf = Vec::new();
    elf.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend(2_u16.to_le_bytes()); // executable
    elf.extend(MACHINE.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend((LOAD_ADDRESS + HEADER_BYTES).to_le_bytes()); // entry
    elf.extend(64_u64.to_le_bytes()); // program headers
    elf.extend(0_u64.to_le_bytes()); // no sections
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let size = HEADER_BYTES + CODE.len() as u64 + size_of_val(&actions()) as u64;
    elf.extend(1_u32.to_le_bytes()); // load
    elf.extend(5_u32.to_le_bytes()); // readable, executable
    for word in [0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(CODE);
    elf.extend(actions().into_iter().flat_map(u64::to_le_bytes));
    elf
}

/// A file system with the program as `/pause`, as a tar.
pub fn image() -> std::io::Result<Vec<u8>> {
    let program = program();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    archive.append_data(&mut header, "pause", program.as_slice())?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_sleeps_until_it_is_asked_to_end() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("pilothouse-pause-{}", std::process::id()));
        std::fs::write(&path, program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let status = || std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = |name: &str| {
            let status = status();
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            u64::from_str_radix(line.trim(), 16).unwrap_or(0)
        };
        // Bit n - 1 is signal n.
        while line("SigCgt:") & (1 << 14) == 0 || !status().contains("S (sleeping)") {
            assert!(!status().contains("Z (zombie)"), "it ended by itself");
            std::thread::yield_now();
        }
        assert_ne!(line("SigIgn:") & (1 << 16), 0, "children are reaped by the kernel");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGTERM)
            .unwrap();
        assert!(child.wait().unwrap().success());
        std::fs::remove_file(path).unwrap();
    }
}
