//! The sandbox's program, made here: a static ELF of a few hundred bytes, so that no registry and no build step is needed.
//!
//! Called with an argument, it first leaves the machine's network namespace for a new one and becomes nobody. As PID 1 it
//! blocks INT, TERM and CHLD and waits for them (a blocked signal reaches even PID 1): TERM and INT end it,
//! CHLD reaps whatever children a shared process namespace has left to it.

/// Machine code, beside the assembly it stands for.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x83, 0x3c, 0x24, 0x01, //             cmp argc, 1
    0x74, 0x3e, //                         if equal goto block
    0xb8, 0x10, 0x01, 0x00, 0x00, //       eax = 272             ; unshare
    0xbf, 0x00, 0x00, 0x00, 0x40, //       edi = CLONE_NEWNET
    0x0f, 0x05, //                         syscall
    0x85, 0xc0, 0x75, 0x24, //             if eax != 0 goto fail
    0x6a, 0x74, 0x58, //                   rax = 116             ; setgroups
    0x31, 0xff, //                         rdi = 0               ; none
    0x31, 0xf6, //                         rsi = 0
    0x0f, 0x05, //                         syscall
    0x85, 0xc0, 0x75, 0x17, //             if eax != 0 goto fail
    0x6a, 0x6a, 0x58, //                   rax = 106             ; setgid
    0xbf, 0xff, 0xff, 0x00, 0x00, //       edi = 65535
    0x0f, 0x05, //                         syscall
    0x85, 0xc0, 0x75, 0x09, //             if eax != 0 goto fail
    0x6a, 0x69,
    0x58, //                   rax = 105             ; setuid, which gives up all capabilities
    0x0f, 0x05, //                         syscall
    0x85, 0xc0, 0x74, 0x0a, //             if eax == 0 goto block
    0xb8, 0xe7, 0x00, 0x00, 0x00, // fail: eax = 231             ; exit_group
    0x6a, 0x01, 0x5f, //                   rdi = 1
    0x0f, 0x05, //                         syscall
    // block:
    0x68, 0x02, 0x40, 0x01, 0x00, //       push 0x14002          ; sigset: INT (2), TERM (15), CHLD (17)
    0x6a, 0x0e, 0x58, //                   rax = 14              ; rt_sigprocmask
    0x31, 0xff, //                         rdi = 0               ; SIG_BLOCK
    0x48, 0x89, 0xe6, //                   rsi = rsp             ; &set
    0x31, 0xd2, //                         rdx = 0
    0x6a, 0x08, 0x41, 0x5a, //             r10 = 8               ; size of the set
    0x0f, 0x05, //                         syscall
    0xb8, 0x80, 0x00, 0x00, 0x00, // wait: eax = 128             ; rt_sigtimedwait
    0x48, 0x89, 0xe7, //                   rdi = rsp
    0x31, 0xf6, //                         rsi = 0
    0x31, 0xd2, //                         rdx = 0               ; no time limit
    0x6a, 0x08, 0x41, 0x5a, //             r10 = 8
    0x0f, 0x05, //                         syscall
    0x83, 0xf8, 0x11, 0x74, 0x13, //       if eax == CHLD goto reap
    0x83, 0xf8, 0x02, 0x74, 0x05, //       if eax == INT goto quit
    0x83, 0xf8, 0x0f, 0x75, 0xdf, //       if eax != TERM goto wait
    0xb8, 0xe7, 0x00, 0x00, 0x00, // quit: eax = 231             ; exit_group
    0x31, 0xff, //                         rdi = 0
    0x0f, 0x05, //                         syscall
    0x6a, 0x3d, 0x58, //             reap: rax = 61              ; wait4
    0x6a, 0xff, 0x5f, //                   rdi = -1
    0x31, 0xf6, //                         rsi = 0
    0x6a, 0x01, 0x5a, //                   rdx = 1               ; WNOHANG
    0x45, 0x31, 0xd2, //                   r10 = 0
    0x0f, 0x05, //                         syscall
    0x85, 0xc0, 0x7f, 0xec, //             if eax > 0 goto reap
    0xeb, 0xc0, //                         goto wait
];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0xe0, 0x03, 0x40, 0xf9, //       ldr x0, [sp]           ; argc
    0x1f, 0x04, 0x00, 0xf1, //       cmp x0, #1
    0xa0, 0x02, 0x00, 0x54, //       b.eq block
    0x28, 0x0c, 0x80, 0xd2, //       mov x8, #97            ; unshare
    0x00, 0x00, 0xa8, 0xd2, //       mov x0, #0x40000000    ; CLONE_NEWNET
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0xc0, 0x01, 0x00, 0xb5, //       cbnz x0, fail
    0xe8, 0x13, 0x80, 0xd2, //       mov x8, #159           ; setgroups
    0x00, 0x00, 0x80, 0xd2, //       mov x0, #0             ; none
    0x01, 0x00, 0x80, 0xd2, //       mov x1, #0
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0x20, 0x01, 0x00, 0xb5, //       cbnz x0, fail
    0x08, 0x12, 0x80, 0xd2, //       mov x8, #144           ; setgid
    0xe0, 0xff, 0x9f, 0xd2, //       mov x0, #65535
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0xa0, 0x00, 0x00, 0xb5, //       cbnz x0, fail
    0x48, 0x12, 0x80, 0xd2, //       mov x8, #146           ; setuid, which gives up all capabilities
    0xe0, 0xff, 0x9f, 0xd2, //       mov x0, #65535
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0x80, 0x00, 0x00, 0xb4, //       cbz x0, block
    0xc8, 0x0b, 0x80, 0xd2, // fail: mov x8, #94            ; exit_group
    0x20, 0x00, 0x80, 0xd2, //       mov x0, #1
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    // block:
    0xff, 0x43, 0x00, 0xd1, //       sub sp, sp, #16
    0x40, 0x00, 0x88, 0xd2, //       mov x0, #0x4002        ; sigset: INT (2), TERM (15), CHLD (17)
    0x20, 0x00, 0xa0, 0xf2, //       movk x0, #1, lsl #16
    0xe0, 0x03, 0x00, 0xf9, //       str x0, [sp]
    0xe8, 0x10, 0x80, 0xd2, //       mov x8, #135           ; rt_sigprocmask
    0x00, 0x00, 0x80, 0xd2, //       mov x0, #0             ; SIG_BLOCK
    0xe1, 0x03, 0x00, 0x91, //       mov x1, sp
    0x02, 0x00, 0x80, 0xd2, //       mov x2, #0
    0x03, 0x01, 0x80, 0xd2, //       mov x3, #8             ; size of the set
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0x28, 0x11, 0x80, 0xd2, // wait: mov x8, #137           ; rt_sigtimedwait
    0xe0, 0x03, 0x00, 0x91, //       mov x0, sp
    0x01, 0x00, 0x80, 0xd2, //       mov x1, #0
    0x02, 0x00, 0x80, 0xd2, //       mov x2, #0             ; no time limit
    0x03, 0x01, 0x80, 0xd2, //       mov x3, #8
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0x1f, 0x44, 0x00, 0x71, //       cmp w0, #17            ; CHLD
    0x00, 0x01, 0x00, 0x54, //       b.eq reap
    0x1f, 0x08, 0x00, 0x71, //       cmp w0, #2             ; INT
    0x60, 0x00, 0x00, 0x54, //       b.eq quit
    0x1f, 0x3c, 0x00, 0x71, //       cmp w0, #15            ; TERM
    0xa1, 0xfe, 0xff, 0x54, //       b.ne wait
    0xc8, 0x0b, 0x80, 0xd2, // quit: mov x8, #94            ; exit_group
    0x00, 0x00, 0x80, 0xd2, //       mov x0, #0
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0x88, 0x20, 0x80, 0xd2, // reap: mov x8, #260           ; wait4
    0x00, 0x00, 0x80, 0x92, //       mov x0, #-1
    0x01, 0x00, 0x80, 0xd2, //       mov x1, #0
    0x22, 0x00, 0x80, 0xd2, //       mov x2, #1             ; WNOHANG
    0x03, 0x00, 0x80, 0xd2, //       mov x3, #0
    0x01, 0x00, 0x00, 0xd4, //       svc #0
    0x1f, 0x00, 0x00, 0x71, //       cmp w0, #0
    0x2c, 0xff, 0xff, 0x54, //       b.gt reap
    0xe9, 0xff, 0xff, 0x17, //       b wait
];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Where the program is loaded: clear of the zero page, on a boundary of every page size in use (up to 64 KiB).
const BASE: u64 = 0x40_0000;
const ELF_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// The ELF file: one header, one loadable segment that covers the whole file, and a stack that is not executable.
fn elf() -> Vec<u8> {
    let code_at = u64::from(ELF_HEADER + 2 * PROGRAM_HEADER);
    let size = code_at + CODE.len() as u64;
    let mut file = Vec::with_capacity(CODE.len() + 176);
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]); // 64 bit, little endian, version 1, System V
    file.extend([0; 8]);
    file.extend(2u16.to_le_bytes()); // ET_EXEC
    file.extend(MACHINE.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend((BASE + code_at).to_le_bytes()); // entry
    file.extend(u64::from(ELF_HEADER).to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes()); // no section headers
    file.extend(0u32.to_le_bytes());
    for half in [ELF_HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes()); // PT_LOAD
    file.extend(5u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, size, size, 0x1_0000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0x6474_e551_u32.to_le_bytes()); // PT_GNU_STACK
    file.extend(6u32.to_le_bytes()); // readable, writable
    for word in [0u64, 0, 0, 0, 0, 16] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE);
    file
}

/// Where the program is in the image.
pub(super) const PATH: &str = "/pause";
/// The argument that makes it leave the machine's network: the number of arguments is all that it looks at.
pub(super) const LEAVE: &str = "leave-network";

/// The image's name; its tag says which program it holds, so a newer minik8s brings its own.
pub(super) fn image_name() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, &elf());
    let short: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("minik8s/pause:{short}")
}

/// The image's one layer, as the tar file that the Engine imports.
pub(super) fn layer() -> std::io::Result<Vec<u8>> {
    let program = elf();
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_entry_type(tar::EntryType::Regular);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, PATH.trim_start_matches('/'), program.as_slice())?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, process::Command};

    /// The real program, run by the real kernel: it lives until it is told to stop, and then ends well.
    #[test]
    fn it_runs_until_terminated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, elf()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::CHILD).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        // Before its first system call TERM still has its default action; both ways it is gone.
        use std::os::unix::process::ExitStatusExt;
        assert!(status.success() || status.signal() == Some(15), "{status}");
    }

    /// Where that may be tried: it is nobody then, in a network namespace of its own.
    #[test]
    fn it_leaves_the_network_and_becomes_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, elf()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).arg(LEAVE).spawn().unwrap();
        if !super::super::container::Limits::detect().network {
            assert_eq!(child.wait().unwrap().code(), Some(1), "without the privilege it must fail");
            return;
        }
        let pid = child.id();
        let nobody = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            ["Uid:\t65535\t65535", "Gid:\t65535\t65535", "Groups:\t \n", "CapEff:\t0000000000000000"]
                .iter()
                .all(|line| status.contains(line))
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !nobody() {
            assert!(
                std::time::Instant::now() < end,
                "{}",
                std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
            );
            std::thread::yield_now();
        }
        assert!(super::super::namespace::is_own(pid).unwrap());
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_layer_holds_the_program() {
        let layer = layer().unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("pause"));
        assert_eq!(entry.header().mode().unwrap(), 0o755);
        assert!(image_name().starts_with("minik8s/pause:") && image_name().len() == 26);
    }
}
