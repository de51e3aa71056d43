//! `tramline completions` and `tramline man`: made from the command line's own description, so they cannot
//! say anything else than `--help`.

use super::output::Output;
use super::{Arguments, Failure};
use clap::CommandFactory;
use std::path::{Path, PathBuf};

/// Prints the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    tramline completions bash > ~/.local/share/bash-completion/completions/tramline\n  \
    tramline completions fish > ~/.config/fish/completions/tramline.fish")]
pub(super) struct Completions {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Writes the manual pages into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tramline man ~/.local/share/man/man1")]
pub(super) struct Man {
    /// The directory, which is made if it is not there
    directory: PathBuf,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut visible(), "tramline", &mut script);
        let mut output = Output::new();
        output.write(&script)?;
        output.flush()
    }
}

impl Man {
    pub(super) fn run(self) -> Result<(), Failure> {
        let refused = |path: &Path, error: std::io::Error| {
            Failure::cannot_create(format!("cannot write {}: {error}", path.display()))
        };
        std::fs::create_dir_all(&self.directory).map_err(|error| refused(&self.directory, error))?;
        clap_mangen::generate_to(visible(), &self.directory).map_err(|error| refused(&self.directory, error))
    }
}

/// The command line without what only the program itself starts.
fn visible() -> clap::Command {
    let full = Arguments::command();
    let shown: Vec<_> = full.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let bare = clap::Command::new("tramline")
        .version(env!("CARGO_PKG_VERSION"))
        .about(full.get_about().cloned().unwrap_or_default());
    bare.subcommands(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_hidden_roles_stay_out() {
        Arguments::command().debug_assert();
        assert!(visible().find_subcommand("pub").is_some());
        assert!(visible().find_subcommand("role").is_none());
    }
}
