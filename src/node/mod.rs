//! L3: the tables a node keeps, guests, migrations, events, and the shapes of its control API.
