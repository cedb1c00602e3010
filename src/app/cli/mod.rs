//! The command line: what is asked, and the exit code. 0 is success, 1 "it was tried and failed", 2 "it could not be
//! tried": a mistake in the arguments or the configuration.

mod analyze;
mod debug;
mod jobs;
mod scan;
mod spectrogram;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use super::appliance::places::Places;
use super::appliance::{card, network, rescue, update, usb};
use super::settings::{self, Sources};

/// An always-on Soulseek node that knows its music.
#[derive(Debug, Parser)]
#[command(name = "slskdn", version, about, long_about = None, propagate_version = true)]
pub struct Arguments {
    /// A configuration file above the data directory's own.
    #[arg(long, global = true, env = "SLSKDN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state is kept [default: `$STATE_DIRECTORY`, else the user's data folder].
    #[arg(long, global = true, env = "SLSKDN_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Set one key of the configuration for this run; may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// On the appliance: the card's files as they were read at the start.
    #[arg(long, global = true, env = "SLSKDN_CARD", value_name = "DIR", hide = true)]
    card: Option<PathBuf>,
    /// A folder in place of `/`, for tests of what root's services do.
    #[arg(long, global = true, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the appliance (the default).
    Serve {
        /// A folder to share, instead of the configured ones; may be repeated.
        #[arg(long, value_name = "DIR")]
        music: Vec<PathBuf>,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Print content hash, piece list root and SHA-256 of files.
    Hash {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        /// Files to read.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Find out what is wrong with the music in folders: exit 0 is healthy, 3 is issues, 2 is that it could not run.
    Scan {
        /// One JSON document instead of the report.
        #[arg(long)]
        json: bool,
        /// Ask no catalogue on the net.
        #[arg(long)]
        offline: bool,
        /// Measure unchanged files again.
        #[arg(long)]
        remeasure: bool,
        /// Files and folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Measure audio files and print what was found, one JSON object a line.
    Analyze {
        /// Print the Chromaprint words too.
        #[arg(long)]
        fingerprint: bool,
        /// Files to measure.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Draw a file's spectrogram: the picture in which a low-pass of a lossy codec is seen.
    Spectrogram {
        /// The audio file.
        file: PathBuf,
        /// The PNG to write.
        #[arg(short, long, value_name = "PNG")]
        output: PathBuf,
    },
    /// Releases that are being brought home, and their manifests.
    Jobs {
        #[command(subcommand)]
        what: jobs::JobsCommand,
    },
    /// Look into what happened.
    Debug {
        #[command(subcommand)]
        what: DebugCommand,
    },
    /// Play a download through a private network of nodes on this machine, with given speeds, delays and faults. Exit 0:
    /// the file came and is the right one, 1: it did not, 2: the scenario has mistakes.
    Lab {
        /// What is to happen (YAML); without it, a demonstration of about 15 seconds.
        #[arg(long, value_name = "FILE")]
        scenario: Option<PathBuf>,
        /// The report as JSON, and nothing else.
        #[arg(long)]
        json: bool,
        /// Keep the folder with the nodes' data and logs.
        #[arg(long)]
        keep: bool,
    },
    /// A peer of the lab; started by the lab alone.
    #[command(hide = true)]
    LabPeer,
    /// Measure what the daemon hands over; started by the daemon alone.
    #[command(hide = true)]
    Worker,
    /// Change the tags of one file; started by the daemon alone.
    #[command(hide = true)]
    Tagger,
    /// Write a verified copy of the store and the configuration, also while the daemon runs.
    Backup {
        /// The file to write; it must not exist.
        file: PathBuf,
    },
    /// Put a backup into an empty data directory.
    Restore {
        /// The file to read.
        file: PathBuf,
    },
    /// Write a signed update into the slot of the appliance that does not run; the next start tries it.
    Update {
        /// The update.
        #[arg(required_unless_present_any = ["status", "requested", "confirm"])]
        file: Option<PathBuf>,
        /// Also when it is older than what runs.
        #[arg(long)]
        force: bool,
        /// Print how the slots stand, as JSON.
        #[arg(long)]
        status: bool,
        /// Install what the page was given; run by systemd alone.
        #[arg(long, hide = true)]
        requested: bool,
        /// Keep the running slot once the program is healthy, or give it up; run by systemd alone.
        #[arg(long, hide = true)]
        confirm: bool,
        /// Seconds in which a version that is tried must be healthy.
        #[arg(long, hide = true, default_value_t = update::HEALTHY_WITHIN_S)]
        within: u64,
    },
    /// The page of a box that does not start; run by systemd alone.
    #[command(hide = true)]
    Rescue {
        /// Ports to listen on.
        #[arg(long = "port", default_values_t = [80, 5030])]
        ports: Vec<u16>,
    },
    /// The owner's files on the boot partition; run by systemd alone.
    #[command(hide = true)]
    Card {
        #[command(subcommand)]
        what: CardCommand,
    },
    /// A disk that was plugged in; run by systemd alone.
    #[command(hide = true)]
    Usb {
        #[command(subcommand)]
        what: UsbCommand,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Clone, Subcommand)]
enum DebugCommand {
    /// Tell what happened to a job: who was asked for what, what came, how quickly. Exit 1: nothing is known of it.
    Job {
        /// One JSON document with every line.
        #[arg(long)]
        json: bool,
        /// A content hash (a fetch from the mesh) or a transfer's id; its beginning will do.
        id: String,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum ConfigCommand {
    /// Report every mistake, with its place; exit 2 if there is one.
    Check,
    /// Print every effective value and where it comes from.
    Print,
    /// Print the JSON schema of the file.
    Schema,
    /// Print a file with every key, its default and its meaning.
    Sample,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum CardCommand {
    /// Put the owner's files to work.
    Read,
    /// Write what the daemon wants there.
    Write,
    /// Keep the log on the data partition.
    KeepLog,
    /// Restart the box, or switch it off, when the page was asked to.
    Power,
    /// Tell on the screen where the page is, or why nothing reaches it.
    Network,
}

#[derive(Debug, Clone, Subcommand)]
enum UsbCommand {
    /// Mount it.
    Mount {
        /// As udev names it.
        device: PathBuf,
    },
    /// Let go of it.
    Unmount {
        /// As udev names it.
        device: PathBuf,
    },
}

/// It could not be tried.
const COULD_NOT: u8 = 2;

/// Reads the process's arguments and does what they say.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Some(Command::Worker)) {
        // It has no environment, and needs no data directory.
        return crate::probe::run_worker();
    }
    if matches!(arguments.command, Some(Command::Tagger)) {
        return crate::probe::run_tagger();
    }
    let places = Places::new(arguments.root.clone());
    let mut sources = Sources {
        card: arguments.card,
        root: arguments.root,
        data: match arguments.data.or_else(default_data) {
            Some(data) => data,
            // Root's services on the appliance have neither a home nor a data directory.
            None if matches!(
                arguments.command,
                Some(Command::Card { .. } | Command::Usb { .. } | Command::Update { .. })
            ) =>
            {
                PathBuf::from("/var/lib/slskdn")
            }
            None => return could_not("no data directory: give --data DIR, or set HOME"),
        },
        config: arguments.config,
        music: Vec::new(),
        flags: arguments.set,
        // What is not UTF-8 cannot be one of ours, or is not a value we could use.
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("SLSKDN_"))
            .collect(),
    };
    match arguments.command.unwrap_or(Command::Serve { music: Vec::new() }) {
        Command::Serve { music } => {
            for folder in music {
                // Others may change the working directory of a daemon; a share stays what it was when it was named.
                match std::path::absolute(&folder) {
                    Ok(folder) => sources.music.push(folder),
                    Err(error) => return could_not(&format!("{}: {error}", folder.display())),
                }
            }
            super::run::serve(sources)
        }
        Command::Config { what } => config(&sources, what),
        Command::Hash { json, files } => hash(&files, json),
        Command::Analyze { fingerprint, files } => analyze::analyze(&files, fingerprint),
        Command::Scan { json, offline, remeasure, paths } => {
            scan::scan(&sources, &paths, &scan::Options { json, offline, remeasure })
        }
        Command::Spectrogram { file, output } => spectrogram::spectrogram(&file, &output),
        Command::Jobs { what } => jobs::jobs(&sources, &what),
        Command::Debug { what: DebugCommand::Job { json, id } } => debug::job(&sources, &id, json),
        Command::Lab { scenario, json, keep } => super::lab::run(&super::lab::Options { scenario, json, keep }),
        Command::LabPeer => super::lab::peer::run(&sources),
        Command::Worker => crate::probe::run_worker(),
        Command::Tagger => crate::probe::run_tagger(),
        Command::Backup { file } => super::backup::backup(&sources, &file),
        Command::Restore { file } => super::backup::restore(&sources, &file),
        Command::Update { status: true, .. } => update::status(&places),
        Command::Update { requested: true, .. } => update::requested(&places),
        Command::Update { confirm: true, within, .. } => update::confirm(&places, within),
        Command::Update { file: Some(file), force, .. } => update::update(&places, &sources, &file, force),
        Command::Update { file: None, .. } => could_not("which file is the update?"),
        Command::Rescue { ports } => rescue::rescue(&sources, &ports),
        Command::Card { what: CardCommand::Read } => card::read(&places),
        Command::Card { what: CardCommand::Write } => card::write_back(&places),
        Command::Card { what: CardCommand::KeepLog } => card::keep_log(&places),
        Command::Card { what: CardCommand::Power } => card::power(&places),
        Command::Card { what: CardCommand::Network } => network::network(&places),
        Command::Usb { what: UsbCommand::Mount { device } } => usb::mount(&places, &device),
        Command::Usb { what: UsbCommand::Unmount { device } } => usb::unmount(&places, &device),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "slskdn", &mut script);
            print(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            match clap_mangen::Man::new(Arguments::command()).render(&mut page) {
                Ok(()) => print(&page),
                Err(error) => could_not(&error.to_string()),
            }
        }
    }
}

/// Every file is tried; one that cannot be read makes the exit code 1.
fn hash(files: &[PathBuf], json: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match super::hash::hash_file(file) {
            Ok(hashes) => {
                let text = if json { serde_json::json!(hashes).to_string() } else { hashes.to_string() };
                print(format!("{text}\n").as_bytes());
            }
            Err(error) => {
                say(&error.to_string());
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn config(sources: &Sources, what: ConfigCommand) -> ExitCode {
    match what {
        ConfigCommand::Schema => print(format!("{:#}\n", settings::schema()).as_bytes()),
        ConfigCommand::Sample => print(settings::sample().as_bytes()),
        ConfigCommand::Check | ConfigCommand::Print => match sources.load() {
            Ok(resolved) => {
                for warning in &resolved.warnings {
                    say(&format!("warning: {warning}"));
                }
                if let Err(problem) = crate::model::limits::fits(&resolved.config) {
                    return could_not(&problem);
                }
                match what {
                    ConfigCommand::Print => print(settings::print(&resolved).as_bytes()),
                    _ => print(b"the configuration is fine\n"),
                }
            }
            Err(problems) => {
                for problem in &problems {
                    say(&problem.to_string());
                }
                ExitCode::from(COULD_NOT)
            }
        },
    }
}

/// `$STATE_DIRECTORY` (systemd), else the user's data folder.
fn default_data() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("STATE_DIRECTORY")
        .or_else(|| set("XDG_DATA_HOME").map(|data| data.join("slskdn")))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/slskdn")))
}

/// Writes to standard output; a closed pipe is an ordinary end.
pub fn print(bytes: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// One sentence for the person at the shell.
pub fn say(sentence: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr().lock(), "slskdn: {sentence}");
}

/// Says why, and that nothing was done.
pub fn could_not(sentence: &str) -> ExitCode {
    say(sentence);
    ExitCode::from(COULD_NOT)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        super::Arguments::command().debug_assert();
    }
}
