"""What the service is measured against: the applications that one would otherwise write."""
