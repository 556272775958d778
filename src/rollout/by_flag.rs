//! For serde: a value for each of some flags, as a map by the flags' names, each at most once.

use super::flag::Flag;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fmt;
use std::marker::PhantomData;

pub fn serialize<T: Serialize, S: Serializer>(
    values: &[(Flag, T)],
    to: S,
) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(values.len()))?;
    values.iter().try_for_each(|(flag, value)| map.serialize_entry(flag, value))?;
    map.end()
}

pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<(Flag, T)>, D::Error> {
    from.deserialize_map(ByFlag(PhantomData))
}

struct ByFlag<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ByFlag<T> {
    type Value = Vec<(Flag, T)>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a map by the names of feature flags")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values: Self::Value = Vec::new();
        while let Some(flag) = map.next_key::<Flag>()? {
            if values.iter().any(|(known, _)| *known == flag) {
                return Err(de::Error::custom(format!("{flag} is there twice")));
            }
            // Most messages below tell the value and not whose it is.
            let value =
                map.next_value().map_err(|error| de::Error::custom(format!("{flag}: {error}")))?;
            values.push((flag, value));
        }
        Ok(values)
    }
}
