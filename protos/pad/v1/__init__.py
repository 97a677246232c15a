"""The contract between client, generator and reward service, with its generated code."""
