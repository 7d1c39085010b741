"""What a device must be told before it decides: thresholds from good parts."""
