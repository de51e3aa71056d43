//! `tramline completions` and `tramline man`: made from the command line's own description, so they cannot
//! say anything else than `--help`.

use super::Failure;
use super::output::Output;
use clap_mangen::roff::{Roff, roman};
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
        let mut program = visible().disable_help_subcommand(true);
        program.build();
        let pages = program.get_subcommands().chain([&program]);
        for command in pages.filter(|command| !command.is_hide_set()) {
            let page = clap_mangen::Man::new(command.clone());
            let path = self.directory.join(page.get_filename());
            let text = manual_page(command, &page).map_err(|error| refused(&path, error))?;
            std::fs::write(&path, text).map_err(|error| refused(&path, error))?;
        }
        Ok(())
    }
}

/// A manual page: what is known of the command, then a section for each part of its help that has a heading
/// (`Examples:`), where the crate that writes these pages would put everything below one heading, EXTRA.
fn manual_page(command: &clap::Command, page: &clap_mangen::Man) -> Result<Vec<u8>, std::io::Error> {
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        page.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    for part in help.split("\n\n") {
        let (heading, body) = match part.split_once(":\n") {
            Some((heading, body)) if !heading.contains('\n') => (heading, body),
            _ => ("Notes", part),
        };
        roff.control("SH", [heading.to_uppercase().as_str()]);
        // As it stands: these are commands and tables.
        roff.control("nf", []);
        roff.text([roman(body)]);
        roff.control("fi", []);
    }
    roff.to_writer(&mut text)?;
    Ok(text)
}

/// The command line without what only the program itself starts.
fn visible() -> clap::Command {
    let full = super::command_line();
    let shown: Vec<_> = full.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let bare = clap::Command::new("tramline")
        .version(env!("CARGO_PKG_VERSION"))
        .about(full.get_about().cloned().unwrap_or_default())
        .after_help(full.get_after_help().cloned().unwrap_or_default())
        .after_long_help(full.get_after_long_help().cloned().unwrap_or_default());
    bare.subcommands(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_hidden_roles_stay_out() {
        crate::cli::command_line().debug_assert();
        assert!(visible().find_subcommand("pub").is_some());
        assert!(visible().find_subcommand("role").is_none());
    }

    #[test]
    fn every_command_has_examples_and_exit_statuses_in_its_help_and_on_its_page() {
        let mut program = visible().disable_help_subcommand(true);
        program.build();
        let names: Vec<String> =
            program.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        assert!(names.len() >= 8, "{names:?}");
        for command in program.get_subcommands().chain([&program]) {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example") && help.contains("Exit status:"), "{name}: {help}");
            let page = manual_page(command, &clap_mangen::Man::new(command.clone())).unwrap();
            let page = String::from_utf8(page).unwrap();
            for heading in ["EXAMPLE", "\"EXIT STATUS\""] {
                assert!(page.contains(&format!("\n.SH {heading}")), "{name} has no {heading}:\n{page}");
            }
            assert!(page.contains("   69  no broker") && !page.contains("EXTRA"), "{name}:\n{page}");
        }
    }
}
