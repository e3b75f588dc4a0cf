use std::fs;
use std::path::Path;

use super::*;

/// A process that is ended when the test ends.
struct Ended(Launched);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.process().signal(libc::SIGKILL);
    }
}

fn shell(script: &str, log: &Path) -> Launch<'static> {
    Launch {
        what: "test".to_owned(),
        program: Path::new("/bin/sh"),
        arguments: vec!["-c".into(), script.into()],
        namespace: None,
        log: log.to_owned(),
    }
}

fn wait(process: &PidFd) {
    assert!(wait_ended(std::slice::from_ref(process), Duration::from_secs(10)).unwrap());
}

#[test]
fn a_process_is_not_taken_for_another_with_its_number() {
    let own = ProcessId::own().unwrap();
    assert!(own.is_running());
    assert!(own.hold().unwrap().is_some());
    let earlier = ProcessId { started: own.started - 1, ..own };
    assert!(earlier.hold().unwrap().is_none());
    assert!(!earlier.is_running());
}

#[test]
fn names_with_parentheses_and_spaces_are_read_over() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("a) b (c");
    std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
    let mut child = std::process::Command::new(&program).arg("100").spawn().unwrap();
    let id = ProcessId::of(child.id() as i32);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(id.unwrap().started >= ProcessId::own().unwrap().started);
}

#[test]
fn it_is_written_down_before_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (log, mark) = (directory.path().join("log"), directory.path().join("mark"));
    let script = format!("touch {}; exec sleep 100", mark.display());
    let mut recorded = None;
    let launched = shell(&script, &log).start(|id| {
        assert!(!mark.exists() && id.is_running());
        recorded = Some(id);
        Ok(())
    });
    let launched = Ended(launched.unwrap());
    assert_eq!(recorded.unwrap().pid, launched.0.process().pid());
}

#[test]
fn it_does_not_run_if_it_cannot_be_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let (log, mark) = (directory.path().join("log"), directory.path().join("mark"));
    let mut recorded = None;
    let launched = shell(&format!("touch {}", mark.display()), &log).start(|id| {
        recorded = Some(id);
        Err(Error::Other("the disk is full".to_owned()))
    });
    assert_eq!(launched.unwrap_err().to_string(), "the disk is full");
    if let Some(process) = recorded.unwrap().hold().unwrap() {
        wait(&process);
    }
    assert!(!mark.exists());
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut launch = shell("", &directory.path().join("log"));
    launch.program = Path::new("/nonexistent/program");
    let error = launch.start(|_| Ok(())).unwrap_err().to_string();
    assert!(error.starts_with("cannot run test: No such file"), "{error}");
}

#[test]
fn it_says_that_it_is_ready_or_ends() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    for (script, ready) in
        [("echo > /proc/self/fd/$CAMBRIC_READY_FD; exec sleep 100", true), ("exit 1", false)]
    {
        let mut launched = Ended(shell(script, &log).start(|_| Ok(())).unwrap());
        assert_eq!(launched.0.said_ready(), ready, "{script}");
    }
}

#[test]
fn it_is_in_a_session_of_its_own_with_no_signal_blocked() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let script = "cut -d' ' -f1,6 /proc/$$/stat; exec grep SigBlk /proc/self/status";
    let interrupts = crate::signals::Interrupts::hold().unwrap();
    let launched = shell(script, &log).start(|_| Ok(())).unwrap();
    drop(interrupts);
    wait(launched.process());
    let output = fs::read_to_string(&log).unwrap();
    let pid = launched.process().pid();
    assert_eq!(output, format!("{pid} {pid}\nSigBlk:\t0000000000000000\n"));
}

#[test]
fn signals_end_it() {
    let directory = tempfile::tempdir().unwrap();
    let launched = shell("exec sleep 100", &directory.path().join("log")).start(|_| Ok(())).unwrap();
    assert!(!launched.process().ended());
    launched.process().signal(libc::SIGTERM).unwrap();
    wait(launched.process());
    launched.process().signal(libc::SIGTERM).unwrap();
}
