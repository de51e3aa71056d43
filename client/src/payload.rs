//! Values as payloads: JSON and bincode.

use crate::error::{Error, Result};

/// What a bincode payload may make its reader allocate, in bytes.
const BINCODE_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(crate) fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| fault("expressible as JSON", &error))
}

pub(crate) fn to_bincode<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let config = bincode::config::standard();
    bincode::serde::encode_to_vec(value, config).map_err(|error| fault("expressible as bincode", &error))
}

pub(crate) fn from_bincode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let config = bincode::config::standard().with_limit::<BINCODE_BYTES_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| fault("the bincode wanted", &error))?;
    if used == bytes.len() {
        return Ok(value);
    }
    let reason = format!("{} bytes are left over", bytes.len() - used).into();
    Err(Error::Payload { what: "the bincode wanted", reason })
}

fn fault(what: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::Payload { what, reason: error.to_string().into() }
}
