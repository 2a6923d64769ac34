'use strict';
const fs = require('fs');

const { cents } = require('./money');

// Items by number; each with its price in cents.
function load(file) {
    const items = new Map();
    for (const item of JSON.parse(fs.readFileSync(file, 'utf8'))) {
        items.set(item.number, { ...item, price: cents(item.price) });
    }
    return items;
}

module.exports = { load };
