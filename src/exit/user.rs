//! What an authenticator tells about a user it lets in.

use core::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::{List, Unfit, check_text};

/// The kind of account a user logs in to; it decides which fields [`UserData`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// Administers the server: needs a user name.
    Administrator,
    /// A user of the operating system: needs a user name, uid, gid and home directory.
    System,
    /// Known to the authenticator only: needs a user name.
    Virtual,
}

/// The fields of [`UserData`] that an account needs and that are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(Vec<&'static str>);

impl Missing {
    /// The names of the fields, at least one.
    pub fn fields(&self) -> &[&'static str] {
        &self.0
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user data lacks {}", self.0.join(", "))
    }
}

impl core::error::Error for Missing {}

/// One user, as an authenticator answers it: name, uid, gid, e-mail, home directory, and further
/// attributes with any number of values.
///
/// Texts hold no control character and are bounded (see the constants). `Debug` shows attribute
/// names and no values: they are the authenticator's business.
///
/// ```
/// use baton::exit::{Account, UserData};
/// let mut user = UserData::default();
/// user.set_user_name("ada")?;
/// user.set_uid(1000)?;
/// user.check(Account::Virtual)?;
/// assert_eq!(
///     user.check(Account::System).unwrap_err().to_string(),
///     "user data lacks gid, home",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct UserData {
    user_name: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    email: Option<String>,
    home: Option<String>,
    attributes: Vec<(String, Vec<String>)>,
}

impl UserData {
    /// The most bytes of a user name.
    pub const USER_NAME_LIMIT: usize = 256;
    /// The most bytes of an e-mail address (RFC 5321 4.5.3.1.3 gives 256 with its brackets).
    pub const EMAIL_LIMIT: usize = 254;
    /// The most bytes of a home directory.
    pub const HOME_LIMIT: usize = 4095;
    /// The most attributes.
    pub const ATTRIBUTES_LIMIT: usize = 64;
    /// The most bytes of an attribute's name.
    pub const ATTRIBUTE_NAME_LIMIT: usize = 128;
    /// The most values of one attribute.
    pub const VALUES_LIMIT: usize = 256;
    /// The most bytes of one value; it may be empty.
    pub const VALUE_LIMIT: usize = 4096;
    /// The most bytes of all attributes together, names and values.
    pub const ATTRIBUTES_SIZE_LIMIT: usize = 16384;

    /// Whether the fields that `account` needs are there; names those that are not.
    pub fn check(&self, account: Account) -> Result<(), Missing> {
        let system = account == Account::System;
        let fields = [
            ("user name", self.user_name.is_none()),
            ("uid", system && self.uid.is_none()),
            ("gid", system && self.gid.is_none()),
            ("home", system && self.home.is_none()),
        ];
        let missing = fields
            .iter()
            .filter(|(_, lacks)| *lacks)
            .map(|(name, _)| *name);
        match missing.collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            some => Err(Missing(some)),
        }
    }

    /// The user name.
    pub fn user_name(&self) -> Option<&str> {
        self.user_name.as_deref()
    }

    /// The user id.
    pub fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// The group id.
    pub fn gid(&self) -> Option<u32> {
        self.gid
    }

    /// The e-mail address.
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    /// The home directory, an absolute path.
    pub fn home(&self) -> Option<&str> {
        self.home.as_deref()
    }

    /// The further attributes, in the order in which they were first added.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.attributes
            .iter()
            .map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// The values of one attribute; none when it is not there.
    pub fn attribute(&self, name: &str) -> &[String] {
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map_or(&[], |(_, values)| values)
    }

    /// Sets the user name: 1 to [`UserData::USER_NAME_LIMIT`] bytes.
    pub fn set_user_name(&mut self, name: impl Into<String>) -> Result<(), Unfit> {
        self.user_name = Some(text("user name", name.into(), Self::USER_NAME_LIMIT)?);
        Ok(())
    }

    /// Sets the user id. 2^32-1 is refused: to the operating system it means "leave as it is".
    pub fn set_uid(&mut self, uid: u32) -> Result<(), Unfit> {
        self.uid = Some(id("uid", uid)?);
        Ok(())
    }

    /// Sets the group id. 2^32-1 is refused, as for the user id.
    pub fn set_gid(&mut self, gid: u32) -> Result<(), Unfit> {
        self.gid = Some(id("gid", gid)?);
        Ok(())
    }

    /// Sets the e-mail address: 1 to [`UserData::EMAIL_LIMIT`] bytes.
    pub fn set_email(&mut self, email: impl Into<String>) -> Result<(), Unfit> {
        self.email = Some(text("email", email.into(), Self::EMAIL_LIMIT)?);
        Ok(())
    }

    /// Sets the home directory: an absolute path of at most [`UserData::HOME_LIMIT`] bytes.
    pub fn set_home(&mut self, home: impl Into<String>) -> Result<(), Unfit> {
        let home = text("home", home.into(), Self::HOME_LIMIT)?;
        if !home.starts_with('/') {
            return Err(Unfit::Impossible("home"));
        }
        self.home = Some(home);
        Ok(())
    }

    /// Adds a value to an attribute, which is made when it is not there yet.
    ///
    /// Refused, and nothing is changed, when a limit would be passed. A value may hold any
    /// character: it is shown nowhere without being escaped.
    pub fn add(&mut self, name: &str, value: impl Into<String>) -> Result<(), Unfit> {
        let value = value.into();
        let place = self.attributes.iter().position(|(known, _)| known == name);
        let added = value.len() + if place.is_none() { name.len() } else { 0 };
        check_text("attribute name", name, Self::ATTRIBUTE_NAME_LIMIT)?;
        if value.len() > Self::VALUE_LIMIT {
            return Err(Unfit::TooLong("attribute value", Self::VALUE_LIMIT));
        }
        if self.attributes_size().saturating_add(added) > Self::ATTRIBUTES_SIZE_LIMIT {
            return Err(Unfit::TooLong("attributes", Self::ATTRIBUTES_SIZE_LIMIT));
        }
        let full = self.attributes.len() == Self::ATTRIBUTES_LIMIT;
        match place.and_then(|place| self.attributes.get_mut(place)) {
            Some((_, values)) if values.len() == Self::VALUES_LIMIT => {
                return Err(Unfit::TooMany("attribute values", Self::VALUES_LIMIT));
            }
            Some((_, values)) => values.push(value),
            None if full => return Err(Unfit::TooMany("attributes", Self::ATTRIBUTES_LIMIT)),
            None => self.attributes.push((name.to_owned(), vec![value])),
        }
        Ok(())
    }

    fn attributes_size(&self) -> usize {
        let values = |values: &[String]| values.iter().map(String::len).sum::<usize>();
        self.attributes
            .iter()
            .map(|(name, all)| name.len() + values(all))
            .sum()
    }
}

fn text(field: &'static str, text: String, limit: usize) -> Result<String, Unfit> {
    check_text(field, &text, limit).map(|()| text)
}

fn id(field: &'static str, id: u32) -> Result<u32, Unfit> {
    if id == u32::MAX {
        Err(Unfit::Impossible(field))
    } else {
        Ok(id)
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.attributes().map(|(name, _)| name).collect();
        f.debug_struct("UserData")
            .field("user_name", &self.user_name)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("email", &self.email)
            .field("home", &self.home)
            .field("attributes", &names)
            .finish()
    }
}

impl<'de> Deserialize<'de> for UserData {
    /// Builds the value with the same calls an authenticator's answer is built with.
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        /// The same fields, texts borrowed: nothing is copied that was not checked.
        #[derive(Deserialize)]
        struct Raw<'a> {
            user_name: Option<&'a str>,
            uid: Option<u32>,
            gid: Option<u32>,
            email: Option<&'a str>,
            home: Option<&'a str>,
            #[serde(borrow)]
            attributes: List<
                (&'a str, List<&'a str, { UserData::VALUES_LIMIT }>),
                { UserData::ATTRIBUTES_LIMIT },
            >,
        }

        let raw = Raw::deserialize(decoder)?;
        let build = || -> Result<Self, Unfit> {
            let mut user = Self::default();
            raw.user_name
                .map_or(Ok(()), |name| user.set_user_name(name))?;
            raw.uid.map_or(Ok(()), |uid| user.set_uid(uid))?;
            raw.gid.map_or(Ok(()), |gid| user.set_gid(gid))?;
            raw.email.map_or(Ok(()), |email| user.set_email(email))?;
            raw.home.map_or(Ok(()), |home| user.set_home(home))?;
            for (name, values) in raw.attributes.0 {
                // Each attribute stands once and has a value: else it could be written two ways.
                if values.0.is_empty() || !user.attribute(name).is_empty() {
                    return Err(Unfit::Impossible("attributes"));
                }
                for value in values.0 {
                    user.add(name, value)?;
                }
            }
            Ok(user)
        };
        build().map_err(D::Error::custom)
    }
}
