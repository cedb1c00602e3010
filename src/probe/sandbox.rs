//! What a worker may do: read the one file it was given, compute, answer. Everything else is refused by the kernel.
//!
//! Limits that are exceeded end the worker, and cost one file. A system call outside the list fails with `EPERM`, so that
//! a library which looks for something optional goes without.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

use crate::model::limits;

/// Descriptors a worker may have open: the socket, the two null devices, the file, and some to pass through.
const OPEN_FILES: u64 = 8;

/// Why a worker could not lock itself in. It does not work then.
#[derive(Debug, Error)]
pub(super) enum SandboxError {
    /// A limit or attribute of the process.
    #[error("the system refuses a limit: {0}")]
    Limit(#[from] rustix::io::Errno),
    /// The filter of system calls.
    #[error("the system refuses the filter: {0}")]
    Filter(#[from] seccompiler::Error),
    /// The filter itself.
    #[error("the filter is wrong: {0}")]
    Backend(#[from] seccompiler::BackendError),
}

/// Locks the calling process in, for good. It must have one thread.
pub(super) fn enter() -> Result<(), SandboxError> {
    lock_in(0, &[])
}

/// As [`enter`], for who changes an open file, which may become `len_max` bytes long.
pub(super) fn enter_to_write(len_max: u64) -> Result<(), SandboxError> {
    lock_in(len_max, &[libc::SYS_pwrite64, libc::SYS_ftruncate, libc::SYS_statx])
}

fn lock_in(len_max: u64, more: &[i64]) -> Result<(), SandboxError> {
    // The first look at a clock asks the kernel, or /proc, where clocks are read without a call. The filter refuses both.
    let _ = clock_gettime(ClockId::ProcessCPUTime);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    for (resource, most) in [
        (Resource::As, limits::WORKER_ADDRESS_SPACE),
        (Resource::Nofile, OPEN_FILES),
        (Resource::Core, 0),
        (Resource::Fsize, len_max),
    ] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    refuse_the_rest(more)
}

/// Grants CPU time for a file of so many bytes, counted from what the process has used so far.
pub(super) fn grant_cpu(file_size: u64) -> Result<(), SandboxError> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
    let seconds = u64::try_from(used)
        .unwrap_or(0)
        .saturating_add(1 + limits::WORKER_CPU_S)
        .saturating_add(file_size / limits::WORKER_BYTES_PER_CPU_S);
    Ok(setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: None })?)
}

/// Refuses the calling thread, and those it starts, every system call that neither decoding needs nor `more` names.
fn refuse_the_rest(more: &[i64]) -> Result<(), SandboxError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = [
        // The file and the socket.
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_close,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        // Memory.
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_brk,
        libc::SYS_madvise,
        // Time, chance, locks, signals, the end.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_futex,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_sched_yield,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .into_iter()
    .chain(more.iter().copied())
    .map(|call| (call, Vec::new()))
    .collect();
    // A process may signal itself (abort) and set its own limits; others are out of reach.
    let own = |value: u64| -> Result<Vec<SeccompRule>, SandboxError> {
        let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        Ok(vec![SeccompRule::new(vec![own])?])
    };
    let pid = u64::from(std::process::id());
    allowed.insert(libc::SYS_prlimit64, own(0)?);
    allowed.insert(libc::SYS_tgkill, own(pid)?);
    let filter = SeccompFilter::new(
        allowed,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        architecture,
    )?;
    let program = BpfProgram::try_from(filter)?;
    Ok(seccompiler::apply_filter(&program)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_opened_started_or_connected() {
        // A filter binds one thread; the others of the test stay free.
        let errors = std::thread::spawn(|| {
            refuse_the_rest(&[]).unwrap();
            [
                std::fs::File::open("/etc/passwd").map(drop),
                std::fs::write("/tmp/slskdn-must-not-be", b"x"),
                std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
                std::os::unix::net::UnixStream::pair().map(drop),
                std::process::Command::new("/bin/true").status().map(drop),
            ]
            .map(|result| result.map_err(|error| error.raw_os_error()))
        })
        .join()
        .unwrap();
        assert_eq!(errors, [Err(Some(libc::EPERM)); 5]);
    }
}
