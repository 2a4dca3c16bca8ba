"""Why a media storage cannot be reached, in words that tell an operator what to do."""

import errno
import socket
import ssl

_EXPIRED, _NOT_YET_VALID, _OTHER_HOST = 10, 9, {62, 64}  # OpenSSL's X509_V_ERR_…

_NETWORK = {
    errno.ECONNREFUSED: "no server listens at its address and port",
    errno.EHOSTUNREACH: "no route leads to its host",
    errno.ENETUNREACH: "no route leads to its network",
    errno.ECONNRESET: "it has reset the connection",
}


def reason_of(error: Exception) -> str:
    """One line for the log: the reason, and what to configure."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _reason_of_certificate(error)
    if isinstance(error, ssl.SSLError):
        if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
            return "it does not speak TLS at this port; is its URL one with http:// instead of https://?"
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return f"its host name cannot be resolved ({error.strerror}); check its URL, and the DNS of this machine"
    if isinstance(error, OSError) and error.errno in _NETWORK:
        return f"{_NETWORK[error.errno]}; check its URL, and that it runs"
    return str(error) or type(error).__name__


def _reason_of_certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "its certificate has expired; renew it, and check the clock of this machine"
    if error.verify_code == _NOT_YET_VALID:
        return "its certificate is not valid yet; check the clocks of both machines"
    if error.verify_code in _OTHER_HOST:
        return f"its certificate is for another host ({error.verify_message}); use a host name of the certificate"
    return (
        f"its certificate is not trusted ({error.verify_message}); name the authority's file in the storage's ca_file,"
        " or in SSL_CERT_FILE"
    )
