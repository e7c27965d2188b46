"""The identity of a node: certificates, keys, signed requests, enrolment and revocation."""
