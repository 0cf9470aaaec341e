//! `apply`: server-side apply of every object in the files.

use super::{
    manifest,
    resource::{self, target_of},
    session::Session,
};
use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use std::io::{Write, stdout};

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// Files, directories or - for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<String>,
    /// Take fields over from other managers
    #[arg(long)]
    force_conflicts: bool,
    /// Who the fields belong to
    #[arg(long, default_value = "minik8s-ctl")]
    field_manager: String,
    /// none or server: only say what would happen
    #[arg(long, default_value = "none")]
    dry_run: String,
}

impl Apply {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let dry_run = match self.dry_run.as_str() {
            "none" => "",
            "server" => "&dryRun=All",
            other => bail!("--dry-run {other:?}: use none or server"),
        };
        let objects = manifest::read(&self.filename)?;
        let all = resource::discover(session).await?;
        for object in objects {
            let target = target_of(session, &all, &object)?;
            let Some(name) = &target.name else {
                bail!("an object in the file has no name: apply needs one")
            };
            let path = format!(
                "{}?fieldManager={}&force={}&fieldValidation=Strict{dry_run}",
                target.path(false),
                super::session::escape(&self.field_manager),
                self.force_conflicts
            );
            let body = serde_json::to_vec(&object)?;
            session.request(Method::PATCH, &path, "application/apply-patch+yaml", body).await?;
            let note = if dry_run.is_empty() { "" } else { " (server dry run)" };
            writeln!(stdout(), "{} serverside-applied{note}", target.resource.named(name))?;
        }
        Ok(())
    }
}
