//! Whom a call is for, and what it wants: the gift providers with their operations, and two partners that sell no gifts.

use serde::{Deserialize, Serialize};

/// The three simulated gift providers; the serialized names are also the path prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    AmazonIncentives,
    GiftOnDemand,
    TangoCard,
}

impl Provider {
    pub const ALL: [Provider; 3] = [Provider::AmazonIncentives, Provider::GiftOnDemand, Provider::TangoCard];

    pub fn name(self) -> &'static str {
        match self {
            Provider::AmazonIncentives => "amazon_incentives",
            Provider::GiftOnDemand => "gift_on_demand",
            Provider::TangoCard => "tango_card",
        }
    }

    pub fn from_name(name: &str) -> Option<Provider> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// What a call to a gift provider wants. Amazon has no `Inquire`: asking again is issuing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Issue,
    Inquire,
    Cancel,
    Funds,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Issue => "issue",
            Op::Inquire => "inquire",
            Op::Cancel => "cancel",
            Op::Funds => "funds",
        }
    }
}

/// One value for each provider.
#[derive(Clone, Copy, Debug)]
pub struct PerProvider<T> {
    pub amazon_incentives: T,
    pub gift_on_demand: T,
    pub tango_card: T,
}

impl<T> PerProvider<T> {
    pub fn of(&self, provider: Provider) -> &T {
        match provider {
            Provider::AmazonIncentives => &self.amazon_incentives,
            Provider::GiftOnDemand => &self.gift_on_demand,
            Provider::TangoCard => &self.tango_card,
        }
    }

    pub fn of_mut(&mut self, provider: Provider) -> &mut T {
        match provider {
            Provider::AmazonIncentives => &mut self.amazon_incentives,
            Provider::GiftOnDemand => &mut self.gift_on_demand,
            Provider::TangoCard => &mut self.tango_card,
        }
    }
}

/// Everybody whom the simulator simulates; the names are also the path prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Partner {
    Gift(Provider),
    OrganizationPlatform,
    Ses,
}

impl Partner {
    pub const ALL: [Partner; 5] = [
        Partner::Gift(Provider::AmazonIncentives),
        Partner::Gift(Provider::GiftOnDemand),
        Partner::Gift(Provider::TangoCard),
        Partner::OrganizationPlatform,
        Partner::Ses,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Partner::Gift(provider) => provider.name(),
            Partner::OrganizationPlatform => "organization_platform",
            Partner::Ses => "ses",
        }
    }

    pub fn from_name(name: &str) -> Option<Partner> {
        Self::ALL.into_iter().find(|partner| partner.name() == name)
    }
}

impl From<Provider> for Partner {
    fn from(provider: Provider) -> Partner {
        Partner::Gift(provider)
    }
}

impl From<Partner> for &'static str {
    fn from(partner: Partner) -> &'static str {
        partner.name()
    }
}

impl TryFrom<String> for Partner {
    type Error = String;

    fn try_from(name: String) -> Result<Partner, String> {
        Partner::from_name(&name).ok_or_else(|| {
            let there = Partner::ALL.map(Partner::name).join(", ");
            format!("there is no provider {name}; there are {there}")
        })
    }
}

/// What a call wants of its partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Errand {
    Gift(Op),
    CreateShop,
    FindShop,
    AssignService,
    DeleteShop,
    SendMail,
    /// The sending quota.
    MailAccount,
}

impl Errand {
    pub const ALL: [Errand; 10] = [
        Errand::Gift(Op::Issue),
        Errand::Gift(Op::Inquire),
        Errand::Gift(Op::Cancel),
        Errand::Gift(Op::Funds),
        Errand::CreateShop,
        Errand::FindShop,
        Errand::AssignService,
        Errand::DeleteShop,
        Errand::SendMail,
        Errand::MailAccount,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Errand::Gift(op) => op.name(),
            Errand::CreateShop => "create_shop",
            Errand::FindShop => "find_shop",
            Errand::AssignService => "assign_service",
            Errand::DeleteShop => "delete_shop",
            Errand::SendMail => "send_mail",
            Errand::MailAccount => "mail_account",
        }
    }

    /// Whether this partner takes such calls.
    pub fn is_for(self, partner: Partner) -> bool {
        match self {
            Errand::Gift(_) => matches!(partner, Partner::Gift(_)),
            Errand::CreateShop | Errand::FindShop | Errand::AssignService | Errand::DeleteShop => {
                partner == Partner::OrganizationPlatform
            }
            Errand::SendMail | Errand::MailAccount => partner == Partner::Ses,
        }
    }

    /// Whether it changes something outside.
    pub fn writes(self) -> bool {
        match self {
            Errand::Gift(op) => matches!(op, Op::Issue | Op::Cancel),
            Errand::CreateShop | Errand::AssignService | Errand::DeleteShop | Errand::SendMail => true,
            Errand::FindShop | Errand::MailAccount => false,
        }
    }
}

impl From<Op> for Errand {
    fn from(op: Op) -> Errand {
        Errand::Gift(op)
    }
}

impl From<Errand> for &'static str {
    fn from(errand: Errand) -> &'static str {
        errand.name()
    }
}

impl TryFrom<String> for Errand {
    type Error = String;

    fn try_from(name: String) -> Result<Errand, String> {
        Errand::ALL
            .into_iter()
            .find(|errand| errand.name() == name)
            .ok_or_else(|| format!("no provider takes calls named {name}"))
    }
}
