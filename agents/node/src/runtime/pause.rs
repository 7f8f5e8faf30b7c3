//! The sandbox's image: one program that sleeps for ever, made here so that no registry is needed.
//!
//! The program is a static ELF file of a few bytes of machine code: it calls `pause` (on ARM `ppoll` without a timeout) in
//! a loop. As process 1 of its namespace it ignores every signal but SIGKILL, which is how the agent ends it.

/// `mov eax, 34 (pause); syscall; jmp` back to the start.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// `mov x8, 73 (ppoll); mov x0..x3, 0; svc 0; b` back to the start.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x28, 0x09, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0x80, 0xd2, 2, 0, 0x80, 0xd2, 3, 0, 0x80, 0xd2, 1, 0, 0, 0xd4, 0xfa,
    0xff, 0xff, 0x17,
];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const LOAD_ADDRESS: u64 = 0x40_0000;
const HEADER_BYTES: u64 = 64 + 56;

/// The ELF file: header, one loadable segment, code.
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
    let size = HEADER_BYTES + CODE.len() as u64;
    elf.extend(1_u32.to_le_bytes()); // load
    elf.extend(5_u32.to_le_bytes()); // readable, executable
    for word in [0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(CODE);
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
    fn the_program_runs_until_it_is_killed() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("pilothouse-pause-{}", std::process::id()));
        std::fs::write(&path, program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        while !state().contains(") S ") {
            assert!(!state().contains(") Z "), "it ended by itself");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
