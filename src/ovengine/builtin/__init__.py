"""The plugins that come with ovengine, one module each, registered the way third-party ones are."""
