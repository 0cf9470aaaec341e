//! Images of the local Engine: the cluster's own store, filled by `docker build` and `docker pull` as well as by us.

use super::{Docker, Error, PULL_PROGRESS, READ, Result, chain, pause, within};
use crate::runtime::{Image, RegistryAuth};
use bollard::{auth::DockerCredentials, body_full, models::ImageInspect, query_parameters as query};
use futures::StreamExt;

impl Docker {
    pub(super) async fn find_image(&self, reference: &str) -> Result<Option<Image>> {
        match within("inspect image", READ, self.docker.inspect_image(reference)).await {
            Ok(found) => Ok(Some(image(found))),
            Err(Error::NotFound(_)) => Ok(None),
            Err(Error::Other(message)) if message.contains("invalid reference") => {
                Err(Error::InvalidImageName(reference.to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn pull_image(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Image> {
        let options = query::CreateImageOptionsBuilder::new().from_image(&with_tag(reference)).build();
        let credentials = auth.map(|auth| DockerCredentials {
            username: Some(auth.username),
            password: Some(auth.password),
            serveraddress: Some(auth.server),
            identitytoken: Some(auth.identity_token).filter(|token| !token.is_empty()),
            ..DockerCredentials::default()
        });
        let failed = |message: String| Error::ImagePull { image: reference.to_owned(), message };
        let mut progress = self.docker.create_image(Some(options), None, credentials).boxed();
        loop {
            match tokio::time::timeout(PULL_PROGRESS, progress.next()).await {
                Err(_) => return Err(failed(format!("no progress for {} s", PULL_PROGRESS.as_secs()))),
                Ok(None) => break,
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => {
                    return Err(match super::from_bollard(error, "pull image", PULL_PROGRESS) {
                        Error::Unavailable(message) => Error::Unavailable(message),
                        Error::Other(message) if message.contains("invalid reference") => {
                            Error::InvalidImageName(reference.to_owned())
                        }
                        other => failed(other.to_string()),
                    });
                }
            }
        }
        let found = self.find_image(reference).await?;
        found.ok_or_else(|| failed("pulled, but not in the Engine's store".to_owned()))
    }

    pub(super) async fn list_images(&self) -> Result<Vec<Image>> {
        let options = query::ListImagesOptionsBuilder::new().all(false).build();
        let summaries = within("list images", READ, self.docker.list_images(Some(options))).await?;
        let mut images: Vec<Image> = summaries
            .into_iter()
            .map(|summary| Image {
                id: summary.id,
                tags: summary.repo_tags,
                digests: summary.repo_digests,
                size_bytes: summary.size.try_into().unwrap_or(0),
                ..Image::default()
            })
            .collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
        Ok(images)
    }

    /// Brings the sandbox's image into the Engine: a few hundred bytes, from our own program.
    pub(super) async fn import_pause(&self, name: &str) -> Result<()> {
        if self.find_image(name).await?.is_some() {
            return Ok(());
        }
        let layer = pause::layer().map_err(|error| Error::Other(error.to_string()))?;
        let (repo, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let entrypoint = format!("ENTRYPOINT [\"{}\"]", pause::PATH);
        let options = query::CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(repo)
            .tag(tag)
            .changes(vec![entrypoint])
            .build();
        let mut progress =
            self.docker.create_image(Some(options), Some(body_full(layer.into())), None).boxed();
        loop {
            match tokio::time::timeout(READ, progress.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => {
                    return Err(Error::Sandbox(format!("cannot import {name}: {}", chain(&error))));
                }
                Err(_) => {
                    return Err(Error::Timeout { what: "import image".to_owned(), seconds: READ.as_secs() });
                }
            }
        }
    }
}

fn image(found: ImageInspect) -> Image {
    let config = found.config.unwrap_or_default();
    Image {
        id: found.id.unwrap_or_default(),
        tags: found.repo_tags.unwrap_or_default(),
        digests: found.repo_digests.unwrap_or_default(),
        size_bytes: found.size.and_then(|size| size.try_into().ok()).unwrap_or(0),
        user: config.user.unwrap_or_default(),
        stop_signal: config.stop_signal,
    }
}

/// A name without tag and digest means `latest`; the Engine would pull every tag there is.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains(':') || last.contains('@') {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_tag_mean_latest() {
        for (given, expected) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("a/b@sha256:00", "a/b@sha256:00"),
        ] {
            assert_eq!(with_tag(given), expected);
        }
    }
}
