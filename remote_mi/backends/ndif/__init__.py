"""Running recipes on NDIF servers: transport, ledger, checks before sending, errors."""
