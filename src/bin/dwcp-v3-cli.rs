//! The operator's command line.

fn main() -> std::process::ExitCode {
    dwcp::cli::operator_main()
}
