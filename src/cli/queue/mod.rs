//! `tramline queue`: looks into queues, pushes to them, pulls from them, and deals with their dead letters.
//!
//! Messages travel as any client's do. What an administrator does is asked in JSON lines, the language that a person
//! would use by hand.

mod ask;

mod declare;

mod show;

mod work;

use super::Failure;
use super::connect::Socket;
use super::output::Output;
use ask::Asked;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// Works with queues.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        tramline queue declare jobs --bind 'work.>'\n  \
        tramline queue ls\n  \
        tramline queue push jobs '{\"n\":1}' --priority 7\n  \
        tramline queue pull jobs --ack\n  \
        tramline queue pull jobs --follow --exec 'convert - out.png'\n  \
        tramline queue dead ls jobs")]
pub(super) struct Queues {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists queues, with what waits in them
    Ls {
        #[command(flatten)]
        socket: Socket,
        /// Print the broker's JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows all about one queue
    Info {
        #[command(flatten)]
        queue: Named,
        /// Print the broker's JSON
        #[arg(long)]
        json: bool,
    },
    Declare(declare::Declare),
    Push(work::Push),
    Pull(work::Pull),
    /// Shows the messages that would be given out next
    Peek {
        #[command(flatten)]
        queue: Named,
        /// How many at most
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        count: u32,
    },
    /// Throws away everything that waits in a queue
    Purge {
        #[command(flatten)]
        queue: Named,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Has a queue give nothing out; messages are still taken
    Pause(Named),
    /// Has a queue give out again
    Resume(Named),
    /// Deals with messages that a queue has given up
    Dead {
        #[command(subcommand)]
        command: Dead,
    },
}

#[derive(Debug, clap::Subcommand)]
enum Dead {
    /// Lists dead letters
    Ls {
        #[command(flatten)]
        queue: Named,
        /// How many at most
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        count: u32,
    },
    /// Shows all about one dead letter
    Show {
        #[command(flatten)]
        queue: Named,
        /// Its number, as ls shows it
        number: u64,
    },
    /// Puts dead letters back into their queue, as if they had just been pushed
    Replay {
        #[command(flatten)]
        queue: Named,
        /// Their numbers
        #[arg(required_unless_present = "all")]
        numbers: Vec<u64>,
        /// All of them
        #[arg(long, conflicts_with = "numbers")]
        all: bool,
    },
    /// Throws dead letters away
    Purge {
        #[command(flatten)]
        queue: Named,
        /// Their numbers; without any, all of them
        numbers: Vec<u64>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// One queue of a broker.
#[derive(Debug, clap::Args)]
struct Named {
    #[command(flatten)]
    socket: Socket,
    /// The queue's name
    queue: String,
}

impl Named {
    fn ask(&self, request: &Value) -> Result<Value, Failure> {
        Asked::connect(&self.socket)?.ask(&self.administers(request))
    }

    fn administers(&self, request: &Value) -> Value {
        let mut line = json!({"op": "queue", "queue": self.queue});
        if let (Some(line), Some(request)) = (line.as_object_mut(), request.as_object()) {
            line.extend(request.clone());
        }
        line
    }

    /// The same request for each of these dead letters, or for all. How many it was carried out for.
    fn for_each(&self, action: &str, numbers: &[u64]) -> Result<u64, Failure> {
        let mut asked = Asked::connect(&self.socket)?;
        let mut count = 0;
        for number in numbers {
            let answer = asked.ask(&self.administers(&json!({"do": action, "number": number})))?;
            count += answer["count"].as_u64().unwrap_or(0);
        }
        while numbers.is_empty() {
            // One request deals with a bounded number of them.
            match asked.ask(&self.administers(&json!({"do": action})))?["count"].as_u64() {
                None | Some(0) => break,
                Some(more) => count += more,
            }
        }
        Ok(count)
    }
}

impl Queues {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut output = Output::new();
        match self.command {
            Command::Ls { socket, json } => {
                let queues = Asked::connect(&socket)?.queues()?;
                if json {
                    output.line(Value::Array(queues))?;
                } else {
                    output.write(show::list(&queues).to_string().as_bytes())?;
                }
            }
            Command::Info { queue, json } => {
                let queues = Asked::connect(&queue.socket)?.queues()?;
                let Some(found) = queues.iter().find(|each| each["queue"] == queue.queue.as_str()) else {
                    let message = format!("there is no queue {:?}; see tramline queue ls", queue.queue);
                    return Err(Failure::unavailable(message));
                };
                if json {
                    output.line(found)?;
                } else {
                    output.write(show::queue(found).as_bytes())?;
                }
            }
            Command::Declare(declare) => return declare.run(),
            Command::Push(push) => return push.run(),
            Command::Pull(pull) => return pull.run(),
            Command::Peek { queue, count } => {
                let answer = queue.ask(&json!({"do": "peek", "max": count}))?;
                each_line(&mut output, &answer)?;
            }
            Command::Purge { queue, yes } => {
                sure(yes, &format!("Throw away everything that waits in queue {}?", queue.queue))?;
                let answer = queue.ask(&json!({"do": "purge"}))?;
                output.line(format_args!("purged: {}", answer["count"]))?;
            }
            Command::Pause(queue) => drop(queue.ask(&json!({"do": "pause"}))?),
            Command::Resume(queue) => drop(queue.ask(&json!({"do": "resume"}))?),
            Command::Dead { command } => dead(command, &mut output)?,
        }
        output.flush()
    }
}

fn dead(command: Dead, output: &mut Output) -> Result<(), Failure> {
    match command {
        Dead::Ls { queue, count } => {
            let answer = queue.ask(&json!({"do": "dead", "max": count}))?;
            output.write(show::dead(answer["messages"].as_array().map_or(&[], Vec::as_slice)).as_bytes())
        }
        Dead::Show { queue, number } => {
            let answer = queue.ask(&json!({"do": "dead", "max": 1, "number": number}))?;
            match answer["messages"].get(0).filter(|letter| letter["number"] == number) {
                Some(letter) => output.line(format_args!("{letter:#}")),
                None => {
                    let message = format!("queue {} has no dead letter {number}", queue.queue);
                    Err(Failure::unavailable(message))
                }
            }
        }
        Dead::Replay { queue, numbers, all: _ } => {
            let count = queue.for_each("replay", &numbers)?;
            output.line(format_args!("replayed: {count}"))
        }
        Dead::Purge { queue, numbers, yes } => {
            let which = if numbers.is_empty() { "all".to_owned() } else { numbers.len().to_string() };
            sure(yes, &format!("Throw away {which} dead letters of queue {}?", queue.queue))?;
            let count = queue.for_each("purge_dead", &numbers)?;
            output.line(format_args!("purged: {count}"))
        }
    }
}

/// Queues of a status, one line each.
pub(super) fn table(queues: &[Value]) -> super::table::Table {
    show::list(queues)
}

/// Prints the messages of an answer, one a line.
fn each_line(output: &mut Output, answer: &Value) -> Result<(), Failure> {
    for message in answer["messages"].as_array().into_iter().flatten() {
        output.line(message)?;
    }
    Ok(())
}

/// Asks the person at the terminal, unless they said so already.
fn sure(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody is there to be asked; say --yes"));
    }
    let mut answer = String::new();
    let asked =
        write!(std::io::stderr(), "{question} [y/N] ").and_then(|()| std::io::stdin().read_line(&mut answer));
    asked.map_err(|error| Failure::io(format!("cannot ask: {error}")))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::usage("nothing was done")),
    }
}
