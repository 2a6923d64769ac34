'use strict';
const crypto = require('crypto');

// A name for a content, for caches.
module.exports = (content) => crypto.createHash('sha256').update(content).digest('base64url').slice(0, 16);
