"""torch lives here: loading, generating, scoring."""
