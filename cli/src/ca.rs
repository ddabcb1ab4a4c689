//! `graft ca`: certificates.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use graft_transport::{Authority, Claims, Role, VALID, issue_token};

use crate::Verdict;
use crate::output::line;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an authority: ca.pem, for everyone, and ca.key, for nobody else
    Init(Init),
    /// Issue a certificate and key for a part
    Issue(Issue),
    /// Issue a token for a client, for routers whose `clients` is "token"
    Token(Token),
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
    /// Name of the files; default: the part's name, or the role
    #[arg(long)]
    name: Option<String>,
    /// The only name under which the part may join the planner (its configuration's `name`); default: any
    #[arg(long, value_name = "NAME")]
    part: Option<String>,
    /// Days for which it is valid
    #[arg(long, default_value_t = VALID.as_secs_f64() / DAY, value_name = "DAYS")]
    days: f64,
    /// Host name or address that clients use (repeatable)
    #[arg(long = "san", value_name = "NAME")]
    names: Vec<String>,
    /// Folder with ca.pem and ca.key, and to write to
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The client's name: a person, an app, or a fleet of phones that share what they may
    #[arg(long, value_name = "NAME")]
    client: String,
    /// Days for which it is valid
    #[arg(long, default_value_t = 30.0, value_name = "DAYS")]
    days: f64,
    /// A model that may be asked for, by its name (repeatable); default: all
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Requests a second at most; default: no bound of its own
    #[arg(long, value_name = "RATE")]
    rps: Option<f64>,
    /// Folder with ca.key
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Init(Init { dir }) => {
            std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            let authority = Authority::new()?;
            none_is_there(&dir, &["ca.key", "ca.pem"])?;
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
            part,
            days,
            names,
            dir,
        }) => {
            let authority = Authority::read(&dir.join("ca.pem"), &dir.join("ca.key"))?;
            let (certificate, key) = authority.issue_pem(role, part.as_deref(), &names, valid_for(days)?)?;
            let name = name.or(part).unwrap_or_else(|| role.to_string());
            none_is_there(&dir, &[&format!("{name}.key"), &format!("{name}.pem")])?;
            write_new(&dir.join(format!("{name}.key")), &key, true)?;
            write_new(&dir.join(format!("{name}.pem")), &certificate, false)?;
            line(format_args!(
                "wrote {0}/{name}.pem and {0}/{name}.key for a {role}",
                dir.display()
            ))?;
        }
        Command::Token(token) => {
            let models = (!token.models.is_empty()).then_some(token.models);
            let claims = Claims::new(&token.client, valid_for(token.days)?, models, token.rps)?;
            let key = token.dir.join("ca.key");
            let certificate = token.dir.join("ca.pem");
            if certificate.exists() {
                // Tokens by another key are nowhere taken.
                Authority::read(&certificate, &key)?;
            }
            line(issue_token(&key, &claims)?)?;
        }
    }
    Ok(Verdict::Yes)
}

/// Seconds of a day.
const DAY: f64 = 86_400.0;

fn valid_for(days: f64) -> anyhow::Result<Duration> {
    anyhow::ensure!(
        (1e-5..=3650.0).contains(&days),
        "--days is {days}; expected 0.00001 to 3650"
    );
    Ok(Duration::from_secs_f64(days * DAY))
}

/// Refuses before anything is written, so that none of the files is left alone.
fn none_is_there(folder: &Path, files: &[&str]) -> anyhow::Result<()> {
    for file in files {
        let file = folder.join(file);
        anyhow::ensure!(
            !file.exists(),
            "{}: is there already; nothing was written",
            file.display()
        );
    }
    Ok(())
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
