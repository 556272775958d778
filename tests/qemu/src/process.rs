//! Programs of the laboratory, and their end with this process.

use crate::LabError;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

/// Runs a program to its end; its output if it went well.
///
/// # Errors
/// It does not start, or says that it failed.
pub fn output_of(command: &mut Command) -> Result<String, LabError> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(LabError::system(shown.clone()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(LabError::Command { command: shown, output: said })
}

/// Starts a program that the kernel kills when this process ends, however it does.
pub fn spawn_bound(mut command: Command) -> io::Result<Child> {
    die_with_parent(&mut command);
    let (answer, answered) = channel();
    let gone = || io::Error::other("the laboratory's starter thread is gone");
    starter().send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

type Order = (Command, Sender<io::Result<Child>>);

/// "Parent" means the thread that forked, so one thread starts all and never ends.
fn starter() -> &'static Sender<Order> {
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                // An asker that is gone needs no child either: dropping one leaves it to us.
                if let Err(unwanted) = answer.send(command.spawn()) {
                    let _ = unwanted.0.map(|mut child| child.kill());
                }
            }
        });
        sender
    })
}

fn die_with_parent(command: &mut Command) {
    let prepare = || {
        // SAFETY: PR_SET_PDEATHSIG takes its argument by value.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and nothing else.
    unsafe { command.pre_exec(prepare) };
}
