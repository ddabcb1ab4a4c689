//! `graft ca`: certificates.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use graft_transport::{Authority, Role};

use crate::Verdict;
use crate::output::line;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an authority: ca.pem, for everyone, and ca.key, for nobody else
    Init(Init),
    /// Issue a certificate and key for a part
    Issue(Issue),
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder to write to
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// What the part does: router, planner or worker
    #[arg(long)]
    role: Role,
    /// Name of the files; default: the role
    #[arg(long)]
    name: Option<String>,
    /// Host name or address that clients use (repeatable)
    #[arg(long = "san", value_name = "NAME")]
    names: Vec<String>,
    /// Folder with ca.pem and ca.key, and to write to
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Init(Init { dir }) => {
            std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            let authority = Authority::new()?;
            write_new(&dir.join("ca.key"), authority.key_pem(), true)?;
            write_new(&dir.join("ca.pem"), authority.certificate_pem(), false)?;
            line(format_args!(
                "wrote {0}/ca.pem and {0}/ca.key; keep the key to yourself",
                dir.display()
            ))?;
        }
        Command::Issue(Issue {
            role,
            name,
            names,
            dir,
        }) => {
            let authority = Authority::read(&dir.join("ca.pem"), &dir.join("ca.key"))?;
            let (certificate, key) = authority.issue_pem(role, &names)?;
            let name = name.unwrap_or_else(|| role.to_string());
            write_new(&dir.join(format!("{name}.key")), &key, true)?;
            write_new(&dir.join(format!("{name}.pem")), &certificate, false)?;
            line(format_args!(
                "wrote {0}/{name}.pem and {0}/{name}.key for a {role}",
                dir.display()
            ))?;
        }
    }
    Ok(Verdict::Yes)
}

/// Writes a file that is not there yet; a secret is readable by its owner alone.
pub(crate) fn write_new(file: &Path, text: &str, secret: bool) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if secret { 0o600 } else { 0o644 })
        .open(file)
        .with_context(|| format!("{}: can't be written (is it there already?)", file.display()))?;
    out.write_all(text.as_bytes())?;
    Ok(())
}
