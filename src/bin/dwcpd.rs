//! The daemon: one node with a config file and a control socket.

fn main() -> std::process::ExitCode {
    dwcp::cli::daemon_main()
}
