//! Asks a model through beluna-gateway and prints the answer as it comes: ask SOCKET QUESTION. Ctrl-C cancels.

use std::error::Error;
use std::io::{stdout, BufRead, BufReader, Write};
use std::os::unix::io::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

use serde::{Deserialize, Serialize};

/// What this client says.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ClientFrame {
    Infer {
        request_id: &'static str,
        messages: Vec<Message>,
    },
}

#[derive(Serialize)]
struct Message {
    role: Role,
    parts: Vec<Part>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    User,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Text { text: String },
}

/// What this client listens to. `Other` is `started`, `usage`, and what a newer daemon says besides.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ServerFrame {
    OutputTextDelta {
        delta: String,
    },
    Completed {},
    Failed {
        error: GatewayError,
    },
    Rejected {
        error: GatewayError,
    },
    #[serde(other)]
    Other,
}

/// `kind` is a string, so that a kind of a later version is read too.
#[derive(Deserialize)]
struct GatewayError {
    kind: String,
    message: String,
    retryable: bool,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (path, question) = match (arguments.next(), arguments.next()) {
        (Some(path), Some(question)) => (path, question),
        _ => return Err("usage: ask SOCKET QUESTION".into()),
    };
    let mut connection = UnixStream::connect(path)?;

    let message = Message {
        role: Role::User,
        parts: vec![Part::Text { text: question }],
    };
    let infer = ClientFrame::Infer {
        request_id: "q1",
        messages: vec![message],
    };
    writeln!(connection, "{}", serde_json::to_string(&infer)?)?;
    interrupt::cancels(&connection);

    for line in BufReader::new(connection).lines() {
        match serde_json::from_str(&line?)? {
            ServerFrame::OutputTextDelta { delta } => {
                print!("{delta}");
                stdout().flush()?;
            }
            ServerFrame::Completed {} => {
                println!();
                return Ok(ExitCode::SUCCESS);
            }
            ServerFrame::Failed { error } | ServerFrame::Rejected { error } => {
                let again = if error.retryable {
                    " (may succeed if it is sent again)"
                } else {
                    ""
                };
                eprintln!("{}: {}{again}", error.kind, error.message);
                return Ok(ExitCode::FAILURE);
            }
            ServerFrame::Other => {}
        }
    }
    eprintln!("the daemon closed the connection before the answer was complete");
    Ok(ExitCode::FAILURE)
}

/// Ctrl-C with nothing but std, which has no signals. A larger program uses the crate `ctrlc` or `tokio::signal`.
mod interrupt {
    use super::*;

    const CANCEL: &[u8] = b"{\"type\":\"cancel\",\"request_id\":\"q1\"}\n";
    const SIGINT: i32 = 2;
    const SIG_DFL: usize = 0;
    static CONNECTION: AtomicI32 = AtomicI32::new(-1);

    extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
        fn write(descriptor: i32, bytes: *const u8, length: usize) -> isize;
    }

    pub fn cancels(connection: &UnixStream) {
        CONNECTION.store(connection.as_raw_fd(), Ordering::Relaxed);
        // SAFETY: `on_interrupt` calls only functions that a signal handler may call.
        unsafe { signal(SIGINT, on_interrupt as extern "C" fn(i32) as usize) };
    }

    extern "C" fn on_interrupt(number: i32) {
        // SAFETY: both are on POSIX's list of functions that a signal handler may call; CANCEL is static.
        unsafe {
            signal(number, SIG_DFL); // a second Ctrl-C does not wait; to close the socket cancels too
            write(
                CONNECTION.load(Ordering::Relaxed),
                CANCEL.as_ptr(),
                CANCEL.len(),
            );
        }
    }
}
