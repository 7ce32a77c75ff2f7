"""Preparing a host for the portal: the certificates both sides need, and the script that sets the host up."""
