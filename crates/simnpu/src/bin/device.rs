//! The process that a simulated device lives in. A backend starts it with a socket as its standard input and the device's
//! options as its arguments; it ends when the socket does.
#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match qiao_simnpu::serve(words.iter().map(String::as_str)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qiao-simnpu-device: {error}");
            ExitCode::FAILURE
        }
    }
}
