//! What keeps a connection from being private, by the TLS library's own error, however deeply it is wrapped.

use std::{error::Error, io};

use noshi_jobs::machine::Tls;

/// `None`: the error is about something else.
pub fn trouble(error: &(dyn Error + 'static)) -> Option<Tls> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<rustls::Error>() {
            return Some(kind(own));
        }
        // What an I/O error wraps is not among its sources, and may be another I/O error.
        if let Some(wrapped) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return trouble(wrapped);
        }
        next = error.source();
    }
    None
}

fn kind(error: &rustls::Error) -> Tls {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as E};
    let certificate = if let E::InvalidCertificate(why) = error { Some(why) } else { None };
    let is_over = matches!(
        certificate,
        Some(
            Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. }
        )
    );
    let is_anothers =
        matches!(certificate, Some(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }));
    let is_old = matches!(
        error,
        E::PeerIncompatible(_) | E::AlertReceived(Alert::ProtocolVersion | Alert::InsufficientSecurity)
    );
    match () {
        () if is_over => Tls::Expired,
        () if is_anothers => Tls::WrongHost,
        () if certificate.is_some() || matches!(error, E::NoCertificatesPresented) => Tls::UnknownCa,
        () if is_old => Tls::OldVersion,
        () => Tls::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client of the HTTP partners wraps what the mail client hands over as it is.
    #[test]
    fn it_is_found_however_deeply_it_is_wrapped() {
        let own = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let once = io::Error::new(io::ErrorKind::InvalidData, own());
        assert_eq!(trouble(&own()), Some(Tls::UnknownCa));
        assert_eq!(trouble(&once), Some(Tls::UnknownCa));
        assert_eq!(trouble(&io::Error::other(once)), Some(Tls::UnknownCa));
        assert_eq!(trouble(&io::Error::other("no connection")), None);
    }
}
