"""What an installation consists of: pool, limit, automations and blocks; and a stack of all of it on one machine."""
