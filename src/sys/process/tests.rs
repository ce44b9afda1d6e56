use std::os::unix::process::ExitStatusExt;

use super::super::kernel::{in_child, refuse, skip};
use super::*;

#[test]
fn the_word_is_the_same_in_all_threads_of_a_process() {
    let own = word();
    assert_ne!(own, 0);
    let others: Vec<_> = (0..8).map(|_| std::thread::spawn(word)).collect();
    assert!(others.into_iter().all(|other| other.join().unwrap() == own));
}

#[test]
fn the_word_differs_in_every_descendant() {
    let parent = word();
    in_child(move || {
        let child = word();
        assert!(child != parent && child != 0 && child == word());
        in_child(move || assert!(![0, parent, child].contains(&word())));
        assert_eq!(word(), child);
    });
    assert_eq!(word(), parent);
}

/// `clone` past the C library: no handler of any library runs.
#[test]
fn the_word_differs_in_a_raw_clone() {
    let parent = word();
    // SAFETY: A copy of this process, like `fork`; the child below allocates nothing.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        exit_now((word() == parent).into());
    }
    let mut status = 0;
    // SAFETY: The status is written where it is expected.
    let waited = unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
    assert_eq!(i64::from(waited), pid);
    assert_eq!(status, 0);
}

#[test]
fn without_wipe_on_fork_nothing_is_ever_found_valid() {
    in_child(|| {
        let advice = libc::MADV_WIPEONFORK as u32;
        if !refuse(libc::SYS_madvise, 2, advice, libc::EINVAL) {
            return skip("no system call filters here");
        }
        assert!(supported().is_err());
        assert!(Identity::own().is_err());
        let words = [word(), word(), word()];
        assert!(words[0] != words[1] && words[1] != words[2] && !words.contains(&0));
    });
}

#[test]
fn without_entropy_the_word_still_differs() {
    let parent = word();
    in_child(move || {
        if !refuse(libc::SYS_getrandom, 2, 0, libc::ENOSYS) {
            return skip("no system call filters here");
        }
        assert!(entropy::fill(&mut [0; 8]).is_err());
        assert!(word() != parent && word() != 0 && word() == word());
    });
}

#[test]
fn an_identity_is_one_process_s() {
    let own = Identity::own().unwrap();
    assert_eq!(own.pid, std::process::id());
    assert_eq!(Identity::of(own.pid).unwrap(), own);
    assert!(own.alive());
    in_child(move || {
        let child = Identity::own().unwrap();
        assert_ne!(child, own);
        assert!(own.alive() && child.alive());
    });
}

#[test]
fn an_ended_process_is_not_alive_waited_for_or_not() {
    let Fork::Parent(mut child) = fork().unwrap() else {
        exit_now(0)
    };
    let identity = Identity::of(child.pid()).unwrap();
    // The descriptor is readable at the end, and the child stays unwaited for.
    let pidfd = child.pidfd().unwrap();
    rustix::event::poll(
        &mut [rustix::event::PollFd::new(
            &pidfd,
            rustix::event::PollFlags::IN,
        )],
        None,
    )
    .unwrap();
    assert!(!pidfd_runs(pidfd).unwrap());
    assert!(!identity.alive());
    assert!(child.wait().unwrap().success());
    assert!(!identity.alive());
    assert_eq!(
        Identity::of(child.pid()).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_number_used_again_is_not_the_same_process() {
    let own = Identity::own().unwrap();
    let later = Identity {
        inode: own.inode.wrapping_add(1),
        ..own
    };
    assert!(own.inode == 0 || !later.alive());
    in_child(move || {
        if !refuse(libc::SYS_pidfd_open, 1, 0, libc::ENOSYS) {
            return skip("no system call filters here");
        }
        // By number and start time, as on an older kernel.
        let own = Identity::own().unwrap();
        assert!(own.inode == 0 && own.started != 0 && own.alive());
        assert!(
            !Identity {
                started: own.started + 1,
                ..own
            }
            .alive()
        );
        // Not comparable: it may be alive.
        assert!(
            Identity {
                inode: 7,
                started: 0,
                ..own
            }
            .alive()
        );
        let Fork::Parent(mut child) = fork().unwrap() else {
            exit_now(0)
        };
        assert!(child.pidfd().is_none());
        let identity = Identity {
            pid: child.pid(),
            ..own
        };
        assert!(child.wait().unwrap().success());
        assert!(!identity.alive());
    });
}

#[test]
fn a_process_of_another_namespace_may_be_alive() {
    let own = Identity::own().unwrap();
    assert!(
        Identity {
            pid: 1 << 30,
            pid_namespace: own.pid_namespace + 1,
            ..own
        }
        .alive()
    );
    assert!(
        !Identity {
            pid: 1 << 30,
            ..own
        }
        .alive()
    );
    assert!(!Identity { pid: 0, ..own }.alive());
}

#[test]
fn a_child_tells_how_it_ended() {
    let Fork::Parent(mut child) = fork().unwrap() else {
        exit_now(7)
    };
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(child.wait().unwrap().code(), Some(7), "the answer is kept");
    child.kill(Signal::KILL).unwrap();

    let Fork::Parent(mut child) = fork().unwrap() else {
        loop {
            std::thread::park();
        }
    };
    assert!(child.try_wait().unwrap().is_none());
    child.kill(Signal::STOP).unwrap();
    assert!(child.wait_stopped().unwrap());
    child.kill(Signal::KILL).unwrap();
    assert!(!child.wait_stopped().unwrap());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn the_boot_id_is_the_kernel_s() {
    let id = boot_id().unwrap();
    assert_eq!(boot_id().unwrap(), id);
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, text.trim().replace('-', ""));
    for wrong in [
        "",
        "00",
        "+0000000000000000000000000000000",
        "zz000000000000000000000000000000",
    ] {
        assert!(parse_boot_id(wrong).is_none());
    }
}

#[test]
fn core_dumps_can_be_given_up() {
    in_child(|| {
        disable_core_dumps().unwrap();
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        set_not_dumpable().unwrap();
        let behaviour = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behaviour, DumpableBehavior::NotDumpable);
    });
}

#[test]
fn the_descriptor_limit_goes_up_to_the_hard_one() {
    in_child(|| {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit {
            current: Some(64),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(raise_descriptor_limit().unwrap(), hard.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    });
}

#[test]
fn a_process_can_lead_a_group_of_its_own() {
    in_child(|| {
        new_process_group().unwrap();
        assert_eq!(process_group(), pid());
    });
}

#[test]
fn another_user_is_another_user_for_good() {
    if uid() != 0 {
        return skip("not root");
    }
    in_child(|| {
        set_user(65534, 65534).unwrap();
        assert_eq!((uid(), gid()), (65534, 65534));
        assert!(set_user(0, 0).is_err());
    });
}

#[test]
fn who_has_become_a_user_has_no_way_back() {
    if !can_become(&[(65521, 65521)]) {
        return skip("not root");
    }
    in_child(|| {
        become_user(65521, 65520, &[65519, 65518], Keep::Nothing).unwrap();
        assert_eq!((uid(), gid()), (65521, 65520));
        assert!(set_user(0, 0).is_err());
        assert!(become_user(65522, 65522, &[], Keep::Nothing).is_err());
        assert!(!can_become(&[(65522, 65522)]));
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("Uid:"), "65521 65521 65521 65521");
        assert_eq!(line("Gid:"), "65520 65520 65520 65520");
        assert_eq!(line("Groups:"), "65518 65519");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(line(set), "0000000000000000", "{set}");
        }
    });
    in_child(|| {
        become_user(65522, 65522, &[], Keep::BecomingUsers).unwrap();
        assert!(can_become(&[(65523, 65523)]));
        assert!(std::fs::write("/etc/hostname.baton", "").is_err());
        become_user(65523, 65523, &[65510], Keep::Nothing).unwrap();
        assert!(set_user(65522, 65522).is_err());
    });
}

#[test]
fn a_lowered_limit_stays_low() {
    in_child(|| {
        lower_limit(Resource::Nofile, 50).unwrap();
        lower_limit(Resource::Nofile, 60).unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((limit.current, limit.maximum), (Some(50), Some(50)));
    });
}

#[test]
fn a_started_program_has_no_signal_blocked_or_ignored() {
    in_child(|| {
        let mut all = std::mem::MaybeUninit::uninit();
        // SAFETY: The set is filled before it is read; ignoring a signal runs nothing.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
            for signal in [libc::SIGHUP, libc::SIGCHLD, libc::SIGTERM, libc::SIGRTMAX()] {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
        let (ours, theirs) = io::pipe().unwrap();
        let mut command = Command::new("/bin/cat");
        command.arg("/proc/self/status").stdout(theirs);
        start(&mut command, Bounds::default()).unwrap();
        drop(command);
        let status = io::read_to_string(ours).unwrap();
        for name in ["SigBlk:", "SigIgn:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let set = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
            // 32 and 33 are the C library's own.
            assert_eq!(set & !(3 << 31), 0, "{status}");
        }
    });
}
