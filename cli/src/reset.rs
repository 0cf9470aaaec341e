//! Being composed.
pub async fn run(_: crate::config::Settings) -> Result<(), crate::Exit> {
    Err(crate::Exit::failed("being composed"))
}
